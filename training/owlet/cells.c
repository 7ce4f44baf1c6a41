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
        if (strchr(CHARACTERS, s[i]))
            m->glyph[m->n_glyph++] = (cell_glyph){x, y, s[i], (int)i, m->n_line};
    }
    m->n_line++;
}

void landmarks_thing(landmarks *m, const scene *s, int i, double side) {
    if (!m || m->n_spot == CELL_SPOTS_MAX) return;
    const object *o = &s->object[i];
    m->spot[m->n_spot++] = (cell_spot){.x = o->x * side,
                                       .y = o->y * side,
                                       .r = o->r * side,
                                       .col = o->col,
                                       .thing = true,
                                       .what = o->what,
                                       .number = s->group[o->group].count,
                                       .turn = o->group,
                                       .where = scene_group_place(s, o->group)};
}

void landmarks_bar(landmarks *m, cairo_t *cr, double x, double y, double r, colour col, int turn,
                   int number) {
    if (!m || m->n_spot == CELL_SPOTS_MAX) return;
    cairo_user_to_device(cr, &x, &y);
    m->spot[m->n_spot++] = (cell_spot){
        .x = x, .y = y, .r = r, .col = col, .number = number, .turn = turn, .where = PLACE_COUNT};
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

/* The sides of a cell that speak of its characters. */
static void read_text(const landmarks *m, int cell, int grid, double size,
                      char out[CELL_SIDES][CELL_GRID_MAX * CELL_GRID_MAX + 1]) {
    char *first = &out[CELL_SIGN_1][cell], *second = &out[CELL_SIGN_2][cell];
    *first = *second = out[CELL_LETTER][cell] = out[CELL_LINE][cell] = letter(0);
    for (int i = 0; i < m->n_glyph; i++) {
        const cell_glyph *g = &m->glyph[i];
        int x = (int)(g->x / size), y = (int)(g->y / size);
        if (x < 0 || y < 0 || x >= grid || y * grid + x != cell) continue;
        char *to = *first == letter(0) ? first : second;
        if (to == first) {
            out[CELL_LETTER][cell] = letter(1 + g->letter);
            out[CELL_LINE][cell] = letter(1 + g->line);
        }
        if (*to == letter(0)) *to = letter(1 + (int)(strchr(CHARACTERS, g->is) - CHARACTERS));
    }
}

/* The sides of a cell that speak of the spot there, NULL: none. */
static void look_at(const cell_spot *s, int cell,
                    char out[CELL_SIDES][CELL_GRID_MAX * CELL_GRID_MAX + 1]) {
    out[CELL_KIND][cell] = letter(s && s->thing ? 1 + (int)s->what : 0);
    out[CELL_COLOUR][cell] = letter(s ? 1 + (int)s->col : 0);
    out[CELL_NUMBER][cell] = letter(s ? s->number : 0);
    out[CELL_TURN][cell] = letter(s ? 1 + s->turn : 0);
    out[CELL_PLACE][cell] = letter(s && s->where != PLACE_COUNT ? 1 + (int)s->where : 0);
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
        look_at(s, i, out);
        if (open)
            out[CELL_KIND][i] = out[CELL_COLOUR][i] = out[CELL_NUMBER][i] = out[CELL_TURN][i] =
                out[CELL_PLACE][i] = '.';
        out[CELL_MIDDLE][i] = letter(0);
        read_text(m, i, grid, size, out);
    }
    /* The middle's own cell always says what is there. */
    for (int i = 0; i < m->n_spot; i++) {
        const cell_spot *s = &m->spot[i];
        int x = (int)(s->x / size), y = (int)(s->y / size);
        if (!s->thing || x < 0 || y < 0 || x >= grid || y >= grid) continue;
        look_at(s, y * grid + x, out);
        out[CELL_MIDDLE][y * grid + x] = letter(1);
    }
    for (int k = 0; k < CELL_SIDES; k++) out[k][n] = 0;
}
