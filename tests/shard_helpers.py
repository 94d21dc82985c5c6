"""Écrit des fragments à la main, sans le code éprouvé : struct et json seulement."""

import hashlib
import json
import struct


def write_shard(path, ids, *, magic=20240520, version=1, count=None):
    """Un fichier `.bin` ; `count` remplace le nombre de tokens annoncé."""
    ids = [int(value) for value in ids]
    head = struct.pack("<3i", magic, version, len(ids) if count is None else count)
    path.write_bytes(head.ljust(1024, b"\0") + struct.pack(f"<{len(ids)}H", *ids))
    return path


def write_folder(folder, splits, *, vocab_size=50257, tokenizer=None):
    """Un dossier de fragments et son index ; `splits` : part → suites de tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or {"name": "gpt2"}
    described = {}
    for split, shards in splits.items():
        entries = []
        for number, ids in enumerate(shards):
            path = write_shard(folder / f"{split}_{number:06d}.bin", ids)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entries.append(
                {"name": path.name, "tokens": len(ids), "documents": 0, "sha256": digest}
            )
        total = sum(len(ids) for ids in shards)
        described[split] = {"tokens": total, "documents": 0, "shards": entries}
    described.setdefault("val", {"tokens": 0, "documents": 0, "shards": []})
    index = {
        "format": "gpt-architecture/token-shards",
        "version": 1,
        "tokenizer": tokenizer,
        "tokenizer_sha256": hashlib.sha256(
            json.dumps(tokenizer, sort_keys=True).encode()
        ).hexdigest(),
        "vocab_size": vocab_size,
        "splits": described,
        "sources": [],
        "skipped": {},
        "settings": {},
    }
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
