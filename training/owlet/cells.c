/* cells.c - landmarks of a picture, and the letters of its cells. */
#include "training/owlet/cells.h"

#include <math.h>
#include <string.h>

static const char CHARACTERS[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz:";

void landmarks_text(landmarks *m, cairo_t *cr, const char *s) {
    cairo_text_extents_t e;
    double x0, y0, before = 0;
    char part[64] = "";
    if (!m) return;
    cairo_get_current_point(cr, &x0, &y0);
    cairo_text_extents(cr, "H", &e);
    double up = e.height / 2;
    for (size_t i = 0; s[i] && i + 1 < sizeof part && m->n_glyph < CELL_GLYPHS_MAX; i++) {
        part[i] = s[i];
        part[i + 1] = 0;
        cairo_text_extents(cr, part, &e);
        double x = x0 + (before + e.x_advance) / 2, y = y0 - up;
        before = e.x_advance;
        cairo_user_to_device(cr, &x, &y);
        if (strchr(CHARACTERS, s[i])) m->glyph[m->n_glyph++] = (cell_glyph){x, y, s[i]};
    }
}

void landmarks_thing(landmarks *m, const object *o, double side) {
    if (!m || m->n_spot == CELL_SPOTS_MAX) return;
    m->spot[m->n_spot++] =
        (cell_spot){o->x * side, o->y * side, o->r * side, o->col, true, o->what};
}

void landmarks_colour(landmarks *m, cairo_t *cr, double x, double y, double r, colour col) {
    if (!m || m->n_spot == CELL_SPOTS_MAX) return;
    cairo_user_to_device(cr, &x, &y);
    m->spot[m->n_spot++] = (cell_spot){.x = x, .y = y, .r = r, .col = col};
}

/* The spot that the point belongs to, the nearest of several; NULL: none.  *open: near the edge of one. */
static const cell_spot *spot_at(const landmarks *m, double x, double y, bool *open) {
    const cell_spot *best = NULL;
    double nearest = 1e9;
    for (int i = 0; i < m->n_spot; i++) {
        const cell_spot *s = &m->spot[i];
        double d = hypot(s->x - x, s->y - y) / s->r;
        if (d >= nearest) continue;
        nearest = d;
        best = s;
    }
    *open = nearest > 0.7 && nearest < 1.3;
    return nearest <= 0.7 ? best : NULL;
}

static char letter(int class_of) {
    return (char)('0' + class_of);
}

static void read_text(const landmarks *m, int cell, int grid, double size, char *first,
                      char *second) {
    *first = *second = letter(0);
    for (int i = 0; i < m->n_glyph; i++) {
        const cell_glyph *g = &m->glyph[i];
        int x = (int)(g->x / size), y = (int)(g->y / size);
        if (x < 0 || y < 0 || x >= grid || y * grid + x != cell) continue;
        char *to = *first == letter(0) ? first : second;
        if (*to == letter(0)) *to = letter(1 + (int)(strchr(CHARACTERS, g->is) - CHARACTERS));
    }
}

void cells_of(const landmarks *m, int side, int grid,
              char out[CELL_SIDES][CELL_GRID_MAX * CELL_GRID_MAX + 1]) {
    double size = (double)side / grid;
    int n = grid * grid;
    for (int i = 0; i < n; i++) {
        bool open;
        int column = i % grid, row = i / grid;
        double x = (column + 0.5) * size, y = (row + 0.5) * size;
        const cell_spot *s = spot_at(m, x, y, &open);
        out[CELL_KIND][i] = open ? '.' : letter(s && s->thing ? 1 + (int)s->what : 0);
        out[CELL_COLOUR][i] = open ? '.' : letter(s ? 1 + (int)s->col : 0);
        out[CELL_MIDDLE][i] = letter(0);
        read_text(m, i, grid, size, &out[CELL_SIGN_1][i], &out[CELL_SIGN_2][i]);
    }
    /* The middle's own cell always says what is there. */
    for (int i = 0; i < m->n_spot; i++) {
        const cell_spot *s = &m->spot[i];
        int x = (int)(s->x / size), y = (int)(s->y / size);
        if (!s->thing || x < 0 || y < 0 || x >= grid || y >= grid) continue;
        out[CELL_KIND][y * grid + x] = letter(1 + (int)s->what);
        out[CELL_COLOUR][y * grid + x] = letter(1 + (int)s->col);
        out[CELL_MIDDLE][y * grid + x] = letter(1);
    }
    for (int k = 0; k < CELL_SIDES; k++) out[k][n] = 0;
}
