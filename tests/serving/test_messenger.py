"""Le messager : tout est remis, dans l'ordre, hors du fil qui envoie."""

import threading

from gpt_architecture.serving.engine.messages import GAP, Messenger


def test_everything_is_delivered_in_order_by_another_thread():
    found, threads = [], set()

    def delivery(number):
        def deliver():
            found.append(number)
            threads.add(threading.get_ident())

        return deliver

    messenger = Messenger()
    for number in range(1000):
        messenger.keep(delivery(number))
        if number % 7 == 0:
            messenger.send()
    messenger.send()
    assert messenger.settle()
    assert found == list(range(1000))
    assert threading.get_ident() not in threads
    assert len(threads) == 1
    messenger.close()


def test_what_is_kept_waits_for_the_sending():
    found = []
    messenger = Messenger()
    messenger.keep(lambda: found.append(1))
    assert messenger.settle()  # rien n'a été envoyé
    assert found == []
    messenger.close()
    assert found == [1]


def test_closing_an_idle_messenger_does_nothing():
    messenger = Messenger()
    messenger.send()
    messenger.close()
    messenger.close()
    assert messenger.settle()


def test_what_does_not_press_leaves_with_the_next(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gpt_architecture.serving.engine.messages.time.monotonic", lambda: now[0])
    found = []
    messenger = Messenger()

    def send(number, *, urgent=False):
        messenger.keep(lambda: found.append(number), urgent=urgent)
        messenger.send()
        assert messenger.settle()
        return found[:]

    assert send(1) == [1]  # rien n'est parti depuis longtemps
    now[0] += GAP / 2
    assert send(2) == [1]
    assert send(3, urgent=True) == [1, 2, 3]
    assert send(4) == [1, 2, 3]
    now[0] += 2 * GAP
    assert send(5) == [1, 2, 3, 4, 5]
    assert send(6) == [1, 2, 3, 4, 5]
    messenger.send(urgent=True)
    assert messenger.settle()
    assert found[-1] == 6
    send(7)
    messenger.close()
    assert found == [1, 2, 3, 4, 5, 6, 7]
