/*
 * tell.h - what is seen, in words: how the texts of the LLM's pre-training tell a picture, and what the abstractor learns
 * its rows from ("Rows" in docs/training.md).
 *
 * A picture is told in TELL_ROWS pieces of the tokenizer, as many as the abstractor has queries, and ")" where the
 * abstractor has its row behind them:
 *
 *     2 picture boat yellow one left boat yellow boat kite red two - kite red kite - - ... -)
 *
 * How many things, what it is, seven words for each of up to three things, then the letters of a sign.  "-" fills what is
 * not there.  That a thing is said again behind its place and its colour makes a thing the word behind what it is asked
 * by, which a small LLM learns to look up; to look up what stands in front it did not learn (README.md).
 */
#ifndef OWLET_TELL_H
#define OWLET_TELL_H

#include "training/owlet/paper.h"
#include "training/owlet/record.h"

enum { TELL_ROWS = 28 };

/* Append the rows, a line each, with the space that stands in front of a word. */
void tell_scene(const scene *s, ty_buf *b);
void tell_paper(const paper *p, ty_buf *b);

typedef enum {
    DRILL_FORTH, /* things with their colours ("boat yellow"), in any order and again and again: all others begin with this */
    DRILL_BACK,  /* the other way round: colours with their things, places with theirs */
    DRILL_ALL,   /* of all kinds */
} drill;

/* A text to learn to look up: up to eight groups, and in several turns all colours by kind, all kinds by
 * colour and so on, in pairs ("boat: yellow") or sentences. */
void tell_drill(record *r, chance *c, drill what);

#endif
