/*
 * ask_paper.h - questions about a paper's fields: a price, the total, a name, a bar's height.
 */
#ifndef OWLET_ASK_PAPER_H
#define OWLET_ASK_PAPER_H

#include "training/owlet/paper.h"
#include "training/owlet/record.h"

/* A question about one field, drawn by the dice; the exam's begin with words that training has not. */
void ask_paper(record *r, chance *c, const paper *p, bool held_out);
/* Training's thorough reading: up to `turns` different questions, reading all of it aloud among them. */
void ask_paper_all(record *r, chance *c, const paper *p, int turns);

#endif
