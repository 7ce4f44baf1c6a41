/*
 * exam.h - an exam of the owlet's kind (training/owlet/README.md): questions with what a right answer must
 * contain, their marks, and the sums of marks.
 */
#ifndef TY_EXAM_H
#define TY_EXAM_H

#include "common/base/err.h"

#include <jansson.h>
#include <stdbool.h>

typedef struct {
    json_t *questions; /* array, as the file has them; a question i may get "given" and "right" */
    char folder[4096]; /* its pictures' */
} exam;

/* Reads a JSON-lines file; checks each line's fields.  Fails: TY_ENOTFOUND, TY_EIO, TY_EFORMAT (with the line's number). */
ty_status exam_read(exam *e, const char *path, ty_err *err);
void exam_clear(exam *e);

/*
 * Does the answer have, for each list of `expect`, one of its words?  Case does not count.  A word that begins or ends with a
 * Latin letter or a digit must stand alone there ("red" is not in "shredded", 4 not in 14); other scripts have no spaces, so theirs
 * may stand anywhere.
 */
bool exam_is_right(const char *answer, const json_t *expect);

/* Marks question i: keeps the answer and whether it is right. */
ty_status exam_mark(exam *e, size_t i, const char *answer, ty_err *err);

/*
 * The sums of what is marked:
 * {"asked", "right", "share", "guess", "abilities": {NAME: {"asked", "right", "share", "guess", "languages": {L: {...}}}},
 *  "confusions": [{"ability", "language", "expected", "answered", "n"}, ...]}, the most frequent confusions first.
 * A confusion: a question with one thing to name, answered with the name of another question's thing ("?" when with none).
 * A new reference; NULL when out of memory.
 */
json_t *exam_sum(const exam *e);

#endif
