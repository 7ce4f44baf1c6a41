/*
 * ask.h - questions that have one answer in a given scene: which ones fit it, the question in one of several
 * wordings, the answer, and what a right answer must contain.
 *
 * Every question has wordings of its own and, as "the colour of the boat", fits into the frames that all questions
 * share ("Tell me %s.").  One frame of each question is kept for the exam, so that the exam asks in sentences
 * never trained on, of words and frames that were.
 */
#ifndef OWLET_ASK_H
#define OWLET_ASK_H

#include "training/owlet/record.h"

enum { ASK_WORDINGS_MAX = 12 };
typedef struct {
    const char *about[LANG_COUNT]; /* what is asked for, named; NULL: direct[l][0] is the exam's */
    int held_out;                  /* the first of the two frames that are the exam's alone */
    const char *direct[LANG_COUNT][ASK_WORDINGS_MAX]; /* NULL where there are fewer */
} wording;
/* Appends a question and its answer; in training at times with an opening before it. */
void ask_turn(record *r, chance *c, bool held_out, const wording *w, const char *a, const facts *f);
/* The same with an answer that stands already; its failure, if any, becomes the answer's. */
void ask_turn_text(record *r, chance *c, bool held_out, const wording *w, const ty_buf *a);

typedef enum {
    ASK_DESCRIBE,      /* all of the scene */
    ASK_COUNT,         /* of group g: how many */
    ASK_COLOUR,        /* its colour */
    ASK_WHERE,         /* where it is */
    ASK_WHAT_THERE,    /* what is where it is */
    ASK_FOLLOW_COLOUR, /* two turns: what is there, then its colour */
    ASK_FOLLOW_WHERE,  /* two turns: which thing has its colour, then where that is */
    ASK_READ,          /* the sign */
    ASK_SPELL,         /* the sign, letter by letter */
    ASK_COUNT_OF
} ask_what;

/* Whether the question has one answer in the scene for group g (0 where no group is asked for). */
bool ask_fits(const scene *s, ask_what what, int g);
/* Turns that it takes: 1 or 2. */
int ask_turns(ask_what what);
/* Appends the turns to r; the expectations and the guess are those of the last. */
void ask(record *r, chance *c, const scene *s, ask_what what, int g, bool held_out);

/* Facts about group g of a scene, for say(). */
facts ask_facts(const scene *s, int g);

#endif
