/*
 * cells.h - what stands where in a picture, cell by cell: what a ViT without any knowledge learns from first.
 *
 * A picture is cut into grid x grid cells, one for each patch of the ViT.  For each of CELL_SIDES things that can be said
 * of a cell there is a letter: '0' + class, or '.' where it is open to argument and not to be learnt.
 */
#ifndef OWLET_CELLS_H
#define OWLET_CELLS_H

#include "training/owlet/scene.h"

#include <cairo/cairo.h>

typedef enum {
    CELL_KIND,   /* 0: no thing, else 1 + kind */
    CELL_COLOUR, /* 0: none, else 1 + colour */
    CELL_MIDDLE, /* 1: the middle of a thing is here: what tells two things side by side from one */
    CELL_SIGN_1, /* the first character whose middle is here: 0: none, else 1 + its place in 0-9A-Za-z: */
    CELL_SIGN_2, /* the second one */
    CELL_LETTER, /* where the first one stands in its text, from 1 */
    CELL_LINE,   /* which text of the picture that is, from 1 */
    CELL_NUMBER, /* of the things that this one is one of, or the height of the bar; 0: none */
    CELL_TURN,   /* which group or bar this is, as the picture is told, from 1 */
    CELL_PLACE,  /* 1 + place of the one of its kind */
    CELL_SIDES
} cell_side;

enum { CELL_GLYPHS_MAX = 96, CELL_SPOTS_MAX = 48, CELL_GRID_MAX = 64 };

/* Coordinates in pixels of the picture. */
typedef struct {
    double x, y;
    char is;
    int letter, line; /* from 0 */
} cell_glyph;

typedef struct {
    double x, y, r;
    colour col;
    bool thing; /* of a kind; else colour alone: a bar of a chart */
    kind what;
    int number, turn;
    place where;
} cell_spot;

/* Filled while a picture is drawn. */
typedef struct {
    cell_glyph glyph[CELL_GLYPHS_MAX];
    cell_spot spot[CELL_SPOTS_MAX];
    int n_glyph, n_spot, n_line;
} landmarks;

/* Before cairo_show_text(cr, s): where each of its characters comes to stand.  m may be NULL, as below. */
void landmarks_text(landmarks *m, cairo_t *cr, const char *s);
/* Object i of s. */
void landmarks_thing(landmarks *m, const scene *s, int i, double side);
/* A patch of colour around (x, y) in cr's coordinates: of bar `turn`, `number` high. */
void landmarks_bar(landmarks *m, cairo_t *cr, double x, double y, double r, colour col, int turn,
                   int number);

/* out[side]: grid * grid letters and a 0, row by row. */
void cells_of(const landmarks *m, int side, int grid,
              char out[CELL_SIDES][CELL_GRID_MAX * CELL_GRID_MAX + 1]);

#endif
