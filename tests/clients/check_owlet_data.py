"""The owlet's data holds together: usage: check_owlet_data.py GENERATOR

Made twice it is the same; every answer of the exam would be marked right, and no answer of another record of its
ability mostly would; the exam's wordings are not among the training's; each picture is there and is a picture.
"""
import collections
import filecmp
import json
import os
import random
import re
import subprocess
import sys
import tempfile

from PIL import Image


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def right(answer, expect):
    """Has the answer a word of each list?  Letters and digits may not go on around it in languages with spaces."""
    answer = answer.lower()

    def has(word):
        word = word.lower()
        at = answer.find(word)
        while at >= 0:
            before, after = answer[:at][-1:], answer[at + len(word):][:1]
            if not (word[0].isascii() and word[0].isalnum() and before.isascii() and before.isalnum()) and \
               not (word[-1].isascii() and word[-1].isalnum() and after.isascii() and after.isalnum()):
                return True
            at = answer.find(word, at + 1)
        return False
    return all(any(has(word) for word in words) for words in expect)


LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz:"


def spelt(cells):
    """The characters of a picture's cells, as far as two fit into one."""
    return [LETTERS[ord(c) - ord("0") - 1] for pair in zip(cells[3], cells[4]) for c in pair if c != "0"]


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def main():
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        for out in (a, b):
            subprocess.run([sys.argv[1], "--out", out, "--seed", "5", "--corpus", "2000", "--train", "1500", "--exam", "900", "--side", "64"], check=True)
        names = [os.path.relpath(os.path.join(d, f), a) for d, _, fs in os.walk(a) for f in fs]
        same, different, odd = filecmp.cmpfiles(a, b, names, shallow=False)
        check(len(same) == len(names) and not different and not odd, f"{len(names)} files are the same when made again")
        exam, train = lines(f"{a}/exam.jsonl"), lines(f"{a}/train.jsonl")
        v2 = json.load(open(f"{a}/train-v2.json", encoding="utf-8"))
        check(len(exam) == 900 and len(train) == 1500 and len(v2) == 1500, "every record is there")
        wrong = [r for r in exam if not right(r["turns"][-1]["answer"], r["expect"])]
        check(not wrong, f"every answer of the exam is marked right {wrong[:1]}")
        groups = collections.defaultdict(list)
        for r in exam:
            groups[r["ability"], r["language"]].append(r)
        check(len(groups) == 36, "nine abilities in four languages")
        dice = random.Random(1)
        other = sum(right(dice.choice(groups[r["ability"], r["language"]])["turns"][-1]["answer"], r["expect"]) for r in exam) / len(exam)
        check(other < 0.25, f"an answer taken from elsewhere is marked right in {other:.0%} of cases only")
        questions = {l[7:] for r in train for l in r["text"].split("\n") if l.startswith("Human: ")}
        held = [r for r in exam if r["turns"][-1]["question"] in questions]
        check(not held, f"no wording of the exam is in the training {held[:1]}")
        check(all(("image" not in r) == (r["ability"] == "text") for r in train), "texts alone have no picture")
        check(all(r["text"].count("<image>") == len(r.get("image", [])) for r in train), "a placeholder for each picture")
        cells = {r["image"][0]: r["cells"] for r in lines(f"{a}/cells.jsonl")}
        check(set(cells) == {p for r in train for p in r.get("image", [])}, "each picture of the training has its cells")
        check(all(len(t) == 64 for c in cells.values() for t in c) and {len(c) for c in cells.values()} == {10}, "ten letters for each of 8 x 8 cells")
        signs = [(re.search(r"AI: The sign says (\w+)\.", r["text"]), cells[r["image"][0]]) for r in train if r["ability"] == "read"]
        signs = [(m.group(1), c) for m, c in signs if m]
        check(len(signs) > 20 and all(sorted(spelt(c)) == sorted(word) for word, c in signs), f"the cells of {len(signs)} signs have their characters")
        rows = {r["image"][0]: r["rows"] for r in lines(f"{a}/rows.jsonl")}
        check(set(rows) == set(cells) and {len(r) for r in rows.values()} == {29} and all(r[-1] == ")" for r in rows.values()), "each picture is told in 28 rows and an end")
        check(all("".join(rows[r["image"][0]][23:28]).replace(" -", "").strip() == m.group(1) for r in train if r["ability"] == "read" and (m := re.search(r"AI: The sign says (\w+)\.", r["text"]))),
              "signs are told as they are read")
        told = lines(f"{a}/exam-told.jsonl")
        seen = [r["turns"][0]["question"].split("\nHuman: ")[:-1] for r in told]
        check(all(len(s) == len(r["image"]) for s, r in zip(seen, exam)), "the exam's pictures are told one by one")
        check(all(re.fullmatch(r"\d (picture|sign|receipt|badge|ticket|chart) .*\)", p) for s in seen for p in s), "in those rows")
        files = [p for r in train + exam for p in r.get("image", [])]
        check(all(Image.open(f"{a}/{p}").size == (64, 64) for p in files), f"{len(files)} pictures open")


main()
