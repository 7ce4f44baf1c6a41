/*
 * owlet-data - everything that the owlet learns from and is examined on, from one seed:
 *
 *   OUT/corpus.jsonl     texts for the LLM's pre-training: the questions with their pictures told in words
 *   OUT/drills.jsonl     easier ones to begin with: one thing to look up among several, again and again (tell.h)
 *   OUT/drills-back.jsonl, drills-pairs.jsonl   the same the other way round, and pictures to compare
 *   OUT/words.txt        the texts as plain lines for the tokenizer (spm_train), Chinese and Japanese words kept apart
 *   OUT/train.jsonl      samples with pictures, the reference's v1 format;  OUT/train-v2.json its v2 format
 *   OUT/pictures/        their JPEGs;  OUT/cells.jsonl what stands where in each (cells.h);  OUT/rows.jsonl each told in words (tell.h)
 *   OUT/exam.jsonl       held-out questions: pictures of another seed, wordings never trained on;  OUT/exam/ their JPEGs
 *   OUT/exam-told.jsonl  the same, the pictures told in words: what the LLM makes of it that sees all
 *
 * Record i of a seed depends on the seed and i alone.
 */
#include "common/base/buf.h"
#include "common/base/file.h"
#include "common/base/options.h"
#include "common/base/outfile.h"
#include "training/owlet/photo.h"
#include "training/owlet/quiz.h"
#include "training/owlet/talk.h"
#include "training/owlet/tell.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    const char *out;
    int seed, train, exam, corpus, drills, side, turns, grid;
} opt;

static const ty_option table[] = {
    TY_OPT_STR("out", NULL, opt.out, NULL, "DIR", "where everything goes; made if it is not there"),
    TY_OPT_INT("seed", NULL, opt.seed, 1, 0, 1 << 30,
               "of the training data; the exam's is seed + 1"),
    TY_OPT_INT("corpus", NULL, opt.corpus, 20000, 0, 100000000, "texts for pre-training"),
    TY_OPT_INT("drills", NULL, opt.drills, 2000, 0, 100000000,
               "texts of each kind to begin pre-training with"),
    TY_OPT_INT("train", NULL, opt.train, 10000, 0, 100000000,
               "samples with pictures (a tenth has none)"),
    TY_OPT_INT("exam", NULL, opt.exam, 1000, 0, 1000000, "held-out questions"),
    TY_OPT_INT("side", NULL, opt.side, 224, 32, 1024, "of a picture, in pixels"),
    TY_OPT_INT("grid", NULL, opt.grid, 8, 1, CELL_GRID_MAX,
               "cells on a side of a picture: the ViT's patches"),
    TY_OPT_INT("turns", NULL, opt.turns, 5, 1, RECORD_TURNS_MAX,
               "up to so many questions about a picture in training"),
    TY_OPT_END,
};

/* The streams of dice: no record of one shares any with a record of another. */
enum { STREAM_TRAIN, STREAM_CORPUS, STREAM_DRILLS, STREAM_BACK, STREAM_PAIRS };

static uint64_t stream(uint64_t seed, int which) {
    return seed * 16 + (uint64_t)which;
}

static language some_language(chance *c) {
    int d = chance_below(c, 5);
    return d < 2 ? LANG_EN : (language)(d - 1);
}

/* The exam has every ability alike; in training what is harder comes more often: with pictures what must be read, in the
 * texts what must be known by heart. */
typedef enum { FOR_EXAM, FOR_PICTURES, FOR_TEXTS } purpose;

static ability some_ability(chance *c, purpose why) {
    static const int WEIGHT[][ABILITY_COUNT_OF] = {
        [FOR_EXAM] = {1, 1, 1, 1, 1, 1, 1, 1, 1},
        [FOR_PICTURES] = {12, 13, 9, 12, 24, 24, 12, 9, 6},
        [FOR_TEXTS] = {22, 5, 5, 24, 8, 20, 26, 30, 16},
    };
    int sum = 0;
    for (int i = 0; i < ABILITY_COUNT_OF; i++) sum += WEIGHT[why][i];
    int d = chance_below(c, sum), a = 0;
    while (d >= WEIGHT[why][a]) d -= WEIGHT[why][a++];
    return (ability)a;
}

static ty_status make(record *r, chance *c, int side, purpose why, ty_err *err) {
    bool exam = why == FOR_EXAM;
    int turns = exam ? 1 : why == FOR_TEXTS ? RECORD_TURNS_MAX : opt.turns;
    ability what = some_ability(c, why);
    ty_status st = TY_OK;
    record_init(r, what, some_language(c));
    if (why == FOR_TEXTS && chance_is(c, 0.3))
        tell_drill(r, c, DRILL_ALL);
    else if (what == ABILITY_TEXT)
        talk_make(r, c, exam, exam ? 1 : turns / 2);
    else
        st = quiz_make(r, c, &(quiz_options){.side = side, .held_out = exam, .turns = turns}, err);
    return st == TY_OK ? record_check(r, err) : st;
}

static ty_status write_pictures(const record *r, const char *prefix, ty_err *err) {
    char path[4096];
    ty_status st = TY_OK;
    for (int i = 0; i < r->n_picture && st == TY_OK; i++) {
        snprintf(path, sizeof path, "%s/%s-%d.jpg", opt.out, prefix, i);
        FILE *f = fopen(path, "wb");
        bool ok = f && fwrite(r->jpeg[i], 1, r->jpeg_size[i], f) == r->jpeg_size[i];
        if (f && fclose(f) != 0) ok = false;
        if (!ok) st = ty_fail(err, TY_EIO, "write %s: %s", path, strerror(errno));
    }
    return st;
}

static ty_status open_in(ty_outfile *f, const char *name, ty_err *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", opt.out, name);
    return ty_outfile_open(f, path, err);
}

static ty_status put(ty_outfile *f, ty_buf *line, ty_err *err) {
    ty_buf_puts(line, "\n");
    if (line->failed != TY_OK) return ty_fail(err, line->failed, "out of memory for a record");
    ty_status st = ty_outfile_write(f, line->data, line->len, err);
    ty_buf_reset(line);
    return st;
}

static ty_status folder(const char *name, ty_err *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s%s", opt.out, *name ? "/" : "", name);
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return TY_OK;
    return ty_fail(err, TY_EIO, "mkdir %s: %s", path, strerror(errno));
}

static void progress(const char *what, int i, int n) {
    if (isatty(2) && (i % 200 == 0 || i == n))
        fprintf(stderr, "\r%s %d of %d%s", what, i, n, i == n ? "\n" : "");
}

/* ---- the files ---- */

/* Nothing marks words in Chinese and Japanese, so the tokenizer would learn whole phrases as one piece, in which a colour
 * is another piece in each phrase.  A Latin letter on both sides of a word of this world keeps it apart: no piece has
 * letters of two scripts.  Capitals, which pictures are told in one by one (tell.h), are kept apart by a digit. */
static void put_words(const ty_buf *text, ty_buf *out) {
    const char *p = text->data ? text->data : "";
    while (*p) {
        size_t n = lexicon_word_at(p);
        if (n) ty_buf_puts(out, "x");
        ty_buf_append(out, p, n ? n : 1);
        if (n) ty_buf_puts(out, "x");
        if (isupper((unsigned char)p[0]) && isupper((unsigned char)p[1])) ty_buf_puts(out, "0");
        p += n ? n : 1;
    }
}

/* The record as a text of pre-training: kept in text, and a line of the file. */
static ty_status put_text(ty_outfile *f, const record *r, bool with_preamble, ty_buf *text,
                          ty_buf *line, ty_err *err) {
    ty_buf_reset(text);
    record_corpus(r, with_preamble, text);
    record_text_line(text, line);
    return put(f, line, err);
}

/* Of one file of drills, how its records are made. */
static ty_status drill_forth(record *r, chance *c, ty_err *err) {
    (void)err;
    record_init(r, ABILITY_DESCRIBE, chance_is(c, 0.5) ? LANG_EN : some_language(c));
    tell_drill(r, c, chance_is(c, 0.5) ? DRILL_FORTH : DRILL_ALL);
    return TY_OK;
}

static ty_status drill_back(record *r, chance *c, ty_err *err) {
    (void)err;
    record_init(r, ABILITY_DESCRIBE, some_language(c));
    tell_drill(r, c, DRILL_BACK);
    return TY_OK;
}

static ty_status drill_pairs(record *r, chance *c, ty_err *err) {
    record_init(r, ABILITY_COMPARE, some_language(c));
    if (chance_is(c, 0.5)) {
        quiz_said(r, c, RECORD_TURNS_MAX);
        return TY_OK;
    }
    return quiz_make(r, c, &(quiz_options){.turns = RECORD_TURNS_MAX}, err);
}

static ty_status write_drills(const char *name, int which,
                              ty_status (*one)(record *r, chance *c, ty_err *err), ty_err *err) {
    ty_outfile lines = {.fd = -1};
    ty_buf text = ty_buf_make(1 << 20), line = ty_buf_make(1 << 20);
    ty_status st = open_in(&lines, name, err);
    for (int i = 0; i < opt.drills && st == TY_OK; i++) {
        record r;
        chance c = chance_make(stream((uint64_t)opt.seed, which), (uint64_t)i);
        st = one(&r, &c, err);
        if (st == TY_OK) st = record_check(&r, err);
        if (st == TY_OK) st = put_text(&lines, &r, false, &text, &line, err);
        record_clear(&r);
        progress(name, i + 1, opt.drills);
    }
    if (st == TY_OK) st = ty_outfile_commit(&lines, err);
    ty_outfile_abandon(&lines);
    ty_buf_clear(&text);
    ty_buf_clear(&line);
    return st;
}

static ty_status write_corpus(ty_err *err) {
    ty_outfile lines = {.fd = -1}, words = {.fd = -1};
    ty_buf text = ty_buf_make(1 << 20), line = ty_buf_make(1 << 20);
    ty_status st = open_in(&lines, "corpus.jsonl", err);
    if (st == TY_OK) st = open_in(&words, "words.txt", err);
    for (int i = 0; i < opt.corpus && st == TY_OK; i++) {
        record r;
        chance c = chance_make(stream((uint64_t)opt.seed, STREAM_CORPUS), (uint64_t)i);
        st = make(&r, &c, 0, FOR_TEXTS, err);
        /* The preamble now and then: what never changes is soon learnt. */
        if (st == TY_OK) st = put_text(&lines, &r, i % 4 == 0, &text, &line, err);
        if (st == TY_OK) {
            put_words(&text, &line);
            st = put(&words, &line, err);
        }
        record_clear(&r);
        progress("corpus", i + 1, opt.corpus);
    }
    if (st == TY_OK) st = ty_outfile_commit(&lines, err);
    if (st == TY_OK) st = ty_outfile_commit(&words, err);
    ty_outfile_abandon(&lines);
    ty_outfile_abandon(&words);
    ty_buf_clear(&text);
    ty_buf_clear(&line);
    return st;
}

static ty_status write_training(ty_err *err) {
    ty_outfile v1 = {.fd = -1}, v2 = {.fd = -1}, cells = {.fd = -1}, rows = {.fd = -1};
    ty_buf line = ty_buf_make(1 << 20);
    ty_status st = folder("pictures", err);
    if (st == TY_OK) st = open_in(&v1, "train.jsonl", err);
    if (st == TY_OK) st = open_in(&v2, "train-v2.json", err);
    if (st == TY_OK) st = open_in(&cells, "cells.jsonl", err);
    if (st == TY_OK) st = open_in(&rows, "rows.jsonl", err);
    if (st == TY_OK) st = ty_outfile_write(&v2, "[\n", 2, err);
    for (int i = 0; i < opt.train && st == TY_OK; i++) {
        char prefix[64], id[16];
        record r;
        chance c = chance_make(stream((uint64_t)opt.seed, STREAM_TRAIN), (uint64_t)i);
        snprintf(id, sizeof id, "%d", i);
        snprintf(prefix, sizeof prefix, "pictures/%07d", i);
        st = make(&r, &c, opt.side, FOR_PICTURES, err);
        if (st == TY_OK) st = write_pictures(&r, prefix, err);
        if (st == TY_OK) {
            record_train_v1(&r, prefix, &line);
            st = put(&v1, &line, err);
        }
        if (st == TY_OK) {
            record_train_v2(&r, prefix, id, &line);
            if (i < opt.train - 1) ty_buf_puts(&line, ",");
            st = put(&v2, &line, err);
        }
        for (int k = 0; k < r.n_picture && st == TY_OK; k++) {
            record_cells(&r, k, prefix, opt.side, opt.grid, &line);
            st = put(&cells, &line, err);
            if (st == TY_OK) {
                record_rows(&r, k, prefix, &line);
                st = put(&rows, &line, err);
            }
        }
        record_clear(&r);
        progress("training", i + 1, opt.train);
    }
    if (st == TY_OK) st = ty_outfile_write(&v2, "]\n", 2, err);
    if (st == TY_OK) st = ty_outfile_commit(&v1, err);
    if (st == TY_OK) st = ty_outfile_commit(&v2, err);
    if (st == TY_OK) st = ty_outfile_commit(&cells, err);
    if (st == TY_OK) st = ty_outfile_commit(&rows, err);
    ty_outfile_abandon(&v1);
    ty_outfile_abandon(&v2);
    ty_outfile_abandon(&cells);
    ty_outfile_abandon(&rows);
    ty_buf_clear(&line);
    return st;
}

/* One question: its pictures, its line and the line in words. */
static ty_status write_question(int i, ty_outfile *exam, ty_outfile *told, ty_buf *line,
                                ty_err *err) {
    char prefix[64], id[16];
    record r;
    chance c = chance_make(stream((uint64_t)opt.seed + 1, STREAM_TRAIN), (uint64_t)i);
    snprintf(id, sizeof id, "%d", i);
    snprintf(prefix, sizeof prefix, "exam/%05d", i);
    ty_status st = make(&r, &c, opt.side, FOR_EXAM, err);
    if (st == TY_OK) st = write_pictures(&r, prefix, err);
    if (st == TY_OK) {
        record_exam(&r, prefix, id, line);
        st = put(exam, line, err);
    }
    if (st == TY_OK) {
        record_exam(&r, NULL, id, line);
        st = put(told, line, err);
    }
    record_clear(&r);
    return st;
}

static ty_status write_exam(ty_err *err) {
    ty_outfile exam = {.fd = -1}, told = {.fd = -1};
    ty_buf line = ty_buf_make(1 << 20);
    ty_status st = folder("exam", err);
    if (st == TY_OK) st = open_in(&exam, "exam.jsonl", err);
    if (st == TY_OK) st = open_in(&told, "exam-told.jsonl", err);
    for (int i = 0; i < opt.exam && st == TY_OK; i++) {
        st = write_question(i, &exam, &told, &line, err);
        progress("exam", i + 1, opt.exam);
    }
    if (st == TY_OK) st = ty_outfile_commit(&exam, err);
    if (st == TY_OK) st = ty_outfile_commit(&told, err);
    ty_outfile_abandon(&exam);
    ty_outfile_abandon(&told);
    ty_buf_clear(&line);
    return st;
}

int main(int argc, char **argv) {
    ty_options_next next = ty_options_parse(
        table, "owlet-data --out DIR [--seed N] [--train N] [--exam N] [--corpus N]",
        "Makes the owlet's training data and its exam: pictures, questions and answers in four "
        "languages.",
        argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (!opt.out) {
        fprintf(stderr, "owlet-data: --out DIR is missing\n");
        return 2;
    }
    ty_err err = {0};
    ty_status st = folder("", &err);
    if (st == TY_OK && opt.drills)
        st = write_drills("drills.jsonl", STREAM_DRILLS, drill_forth, &err);
    if (st == TY_OK && opt.drills)
        st = write_drills("drills-back.jsonl", STREAM_BACK, drill_back, &err);
    if (st == TY_OK && opt.drills)
        st = write_drills("drills-pairs.jsonl", STREAM_PAIRS, drill_pairs, &err);
    if (st == TY_OK && opt.corpus) st = write_corpus(&err);
    if (st == TY_OK && opt.train) st = write_training(&err);
    if (st == TY_OK && opt.exam) st = write_exam(&err);
    if (st != TY_OK) fprintf(stderr, "owlet-data: %s\n", err.text);
    return st == TY_OK ? 0 : 1;
}
