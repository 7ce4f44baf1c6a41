/*
 * quiz.h - questions about pictures: one record of an ability in a language, its pictures drawn.
 */
#ifndef OWLET_QUIZ_H
#define OWLET_QUIZ_H

#include "training/owlet/record.h"

typedef struct {
    int side;      /* of the pictures, pixels; 0: draw none (for texts) */
    bool held_out; /* the exam's templates instead of the training's */
    int turns;     /* up to so many questions about a picture; at most 1: the ability's own alone */
} quiz_options;

/* r: initialised (record_init).  Any ability but ABILITY_TEXT. */
ty_status quiz_make(record *r, chance *c, const quiz_options *o, ty_err *err);

/* Further turns without a picture, until there are so many: whether two things that are said are the same. */
void quiz_said(record *r, chance *c, int turns);

#endif
