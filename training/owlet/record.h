/*
 * record.h - one sample: pictures, turns, and for the exam what a right answer must contain.
 */
#ifndef OWLET_RECORD_H
#define OWLET_RECORD_H

#include "common/base/buf.h"
#include "training/owlet/cells.h"
#include "training/owlet/say.h"

#include <stddef.h>

typedef enum {
    ABILITY_DESCRIBE,
    ABILITY_COUNT,
    ABILITY_COLOUR,
    ABILITY_PLACE,
    ABILITY_READ,
    ABILITY_DOCUMENT,
    ABILITY_COMPARE,
    ABILITY_FOLLOW,
    ABILITY_TEXT,
    ABILITY_COUNT_OF
} ability;
const char *ability_name(ability a); /* "describe" ... */

enum { RECORD_PICTURES_MAX = 2, RECORD_TURNS_MAX = 12, RECORD_EXPECT_MAX = 9 };

typedef struct {
    ability what;
    language lang;
    unsigned char *jpeg[RECORD_PICTURES_MAX];
    size_t jpeg_size[RECORD_PICTURES_MAX];
    landmarks marks[RECORD_PICTURES_MAX];
    int n_picture;
    ty_buf question[RECORD_TURNS_MAX], answer[RECORD_TURNS_MAX];
    int n_turn;
    /* The last answer is right when it has a word of each of these; alternatives are parted by '|'. */
    ty_buf expect[RECORD_EXPECT_MAX];
    int n_expect;
    double guess;                     /* how often a blind guess is right */
    ty_buf seen[RECORD_PICTURES_MAX]; /* what the pictures show, in words (tell.h); "": nothing */
} record;

/* Empty, its buffers ready. */
void record_init(record *r, ability what, language lang);
/* For the next record. */
void record_clear(record *r);
/* Appends a turn (nothing is expected of its answer yet) / something that the last answer must contain. */
void record_turn(record *r, const char *question, const char *answer, const facts *f);
/* The same, at times with words in front of the question that must be seen through. */
void record_turn_opened(record *r, chance *c, const char *question, const char *answer,
                        const facts *f);
void record_expect(record *r, const char *alternatives);
void record_expect_number(record *r, int n);
void record_expect_kind(record *r, kind k);
void record_expect_colour(record *r, colour c);
/* The first failure of any of its buffers. */
ty_status record_check(const record *r, ty_err *err);

/* JSON lines, without the line's end.  name(i) of picture i is "PREFIX-i.jpg".
 * train: the reference's v1 JSONL; train_v2: an element of its v2 array; exam: ours (README.md),
 * with a NULL prefix the pictures in words. */
void record_train_v1(const record *r, const char *prefix, ty_buf *out);
void record_train_v2(const record *r, const char *prefix, const char *id, ty_buf *out);
/* Cell by cell what is where in picture i: {"image", "cells": [CELL_SIDES texts of grid * grid letters]} (cells.h). */
void record_cells(const record *r, int i, const char *prefix, int side, int grid, ty_buf *out);
/* Row by row what the abstractor is to say of picture i: {"image", "rows": [pieces]}. */
void record_rows(const record *r, int i, const char *prefix, ty_buf *out);
void record_exam(const record *r, const char *prefix, const char *id, ty_buf *out);
/* What a picture shows as texts have it: its rows, one behind the other. */
void record_put_seen(const ty_buf *seen, ty_buf *out);
/* A text for pre-training: the pictures in words in the place of the pictures, the words in front of every
 * conversation or not; and as a JSON line. */
void record_corpus(const record *r, bool with_preamble, ty_buf *out);
void record_text_line(const ty_buf *text, ty_buf *out);

#endif
