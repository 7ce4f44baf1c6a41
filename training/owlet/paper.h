/*
 * paper.h - small documents and charts: a receipt, a name badge, a ticket, a bar chart; what they say, and
 * how they are drawn.
 */
#ifndef OWLET_PAPER_H
#define OWLET_PAPER_H

#include "common/base/buf.h"
#include "training/owlet/cells.h"
#include "training/owlet/chance.h"
#include "training/owlet/lexicon.h"

#include <cairo/cairo.h>

typedef enum { PAPER_RECEIPT, PAPER_BADGE, PAPER_TICKET, PAPER_CHART, PAPER_COUNT } paper_kind;

enum { PAPER_LINES_MAX = 4 };

typedef struct {
    paper_kind what;
    const char *label[PAPER_LINES_MAX]; /* goods of a receipt; NULL in a chart */
    colour bar[PAPER_LINES_MAX];        /* of a chart */
    int value[PAPER_LINES_MAX];         /* prices; heights 1..9, all different */
    int n;
    int total;          /* of a receipt */
    const char *person; /* on a badge */
    int number;         /* of a badge (room), of a ticket (seat) */
    int day, hour;      /* of a ticket */
    int font;
    double turn;
    uint64_t texture;
} paper;

void paper_make(paper *p, chance *c, paper_kind what);
/* The highest bar (sign 1) or the lowest (-1) of a chart. */
int paper_bar(const paper *p, int sign);
/* Appends what is written on it, in reading order: "Tea 6, Rice 4, Total 10"; of a chart the English colours. */
void paper_words(const paper *p, ty_buf *b);
/* Into the rectangle of w x h at the origin; adds to marks (may be NULL) what is where. */
void paper_draw(cairo_t *cr, const paper *p, double w, double h, landmarks *marks);

/* Selects a font family by number, bold or not; families that Debian has. */
void paper_font(cairo_t *cr, int n, double size);

#endif
