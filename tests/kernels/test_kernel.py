"""L'annonce de la première compilation des noyaux."""

import logging

from gpt_architecture.kernels.runtime.kernel import Announcement


def test_compilation_is_announced_once(caplog):
    """Une ligne au premier noyau compilé, plus rien ensuite."""
    announcement = Announcement()
    with caplog.at_level(logging.INFO, logger="gpt_architecture.kernels.runtime.kernel"):
        announcement.on_start(None)
        announcement.on_end(None)
        announcement.on_start(None)
    assert [record.message for record in caplog.records] == [
        "première utilisation sur cette machine : les noyaux se compilent, une demi-minute"
    ]
