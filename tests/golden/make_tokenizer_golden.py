#!/usr/bin/env python3
"""Writes tokenizer.json beside this file: what Hugging Face's tokenizers make of hard text, and of every character.

Needs tokenizers (the file in the repository was made with 0.23.3). The test that reads the file does not.
"""
import json
import pathlib
import zlib

from tokenizers import BertWordPieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "un ##aff ##able hello naive cafe Café ##é e ##e i ##i ̇ ##̇ İ ##ST ist anbul ss ß ##ß σ ##σ ς ##ς ὀ ο ##ο δυ ##υ δ ##δ "
    "ﬁ ##ﬁ fi a ##a b ##b c ##c A ##B x ##x 1 ##1 . , ! ? ' - [ ] $ + ^ ~ 你 好 ##好 가 ᄀ ##ᅡ ##가 한 שלום ש ##ל ##ו ##ם 👩 ##‍ 👨 💻 ##💻 "
    "́ ##́ ̖ ##̖ า ##า क ##् ##ष  ##z z MASK mask"
).split()
TEXTS = [
    "Hello, unaffable naïve café! 你好 it's 3.14", "", " \t\r\u00a0\u3000 ", "[MASK] a[MASK]b [mask] [MASK", "[CLS][SEP][PAD][UNK]",
    "e\u0301 E\u0301\u0316 \u0301\u0316 !\u0301", "a\u0344\u0316b \u1e69\u0323", "\u0958\u093c\u0950 \u302e\u302fa\u302a\u302e",
    "\u0130STanbul \u0131i\u0307", "ΟΔΥΣΣΕΥΣ ὈΔΥΣΣΕΎΣ σς", "Straße STRASSE \ufb01 \ufb03 \u1e9e", "a\u0000b\u0001c\u000bd\u000ce\u0085f\u2028g\u2029h",
    "a\u200bb\u200dc\ufeffd\u00ade\u180ef", "👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽", "\u202eשלום\u202c שָׁלוֹם السَّلام", "\ue000a\U000f0000b\U0010fffdc", "a\u0378b\u0380\U000e0080",
    "\ud7ffa\ue000 \uffff\ufffe\ufffd", "x\U00010000x\U0010ffff", "한국어 가각\u1100\u1161", "你a好b\u3400\U00020000\U0002b820\U0002b920\uf900\ufa6e\U0002f800",
    "กำ ทำ क्ष \u0e33", "\u1734\u1885\u1886\ua9bd\U000111c9\u166d", "\U00011938 \U000110cd \u0890 \u08d4", "$+<=>^`|~ «»‘’“”–—…¿¡§¶", "a" * 100 + " " + "a" * 101,
    "İ" * 50 + " " + "İ" * 51, "\u0301" * 120 + "a", "你" * 120, "\u212b \u2126 \u1f71 \ufa0c", "Ab!cD--x..", "\u1c89 \ua7cb\ua7dc \U00010d50 \U00016ea0",
    "\u0345\u0301\u0342a\u0345\u0301", "\U0001d15e\U0001d165\U0001d16e", "a\u1dfa\u0316 a\u1df6\u0334",
]


def main():
    here = pathlib.Path(__file__).resolve().parent
    vocabulary = SPECIAL + list(dict.fromkeys(WORDS))
    path = here / "vocab.tmp"
    path.write_text("".join(token + "\n" for token in vocabulary), encoding="utf-8")
    golden = {"vocabulary": vocabulary, "texts": TEXTS}
    for name, lowercase in (("uncased", True), ("cased", False)):
        tokenizer = BertWordPieceTokenizer(str(path), lowercase=lowercase)
        rows = [tokenizer.encode(text) for text in TEXTS]
        golden[name] = [{"ids": row.ids, "offsets": [list(pair) for pair in row.offsets]} for row in rows]
        # Each character between letters, by its words: every class of every character.
        checksum = 0
        for code in range(0x110000):
            if 0xD800 <= code < 0xE000:
                continue
            text = tokenizer.normalizer.normalize_str(f"x{chr(code)}\u0334x")
            words = " ".join(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
            checksum = zlib.crc32(words.encode() + b"\n", checksum)
        golden[name + "_characters"] = checksum
    path.unlink()
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in golden.items())
    (here / "tokenizer.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
