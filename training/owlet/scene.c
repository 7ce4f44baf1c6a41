/* scene.c - random scenes: kinds and colours that tell apart, places that do not overlap. */
#include "training/owlet/scene.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Colours that a backdrop would swallow. */
static bool visible(backdrop b, colour c) {
    switch (b) {
    case BACKDROP_SKY: return c != COLOUR_WHITE && c != COLOUR_GREY;
    case BACKDROP_MEADOW: return c != COLOUR_GREEN;
    case BACKDROP_SAND: return c != COLOUR_YELLOW && c != COLOUR_BROWN && c != COLOUR_ORANGE;
    case BACKDROP_WALL: return c != COLOUR_WHITE && c != COLOUR_GREY;
    case BACKDROP_WOOD: return c != COLOUR_BROWN && c != COLOUR_ORANGE;
    case BACKDROP_BOKEH: return c != COLOUR_GREY;
    case BACKDROP_TILES: return c != COLOUR_WHITE && c != COLOUR_GREY;
    case BACKDROP_NIGHT: return c != COLOUR_BLACK && c != COLOUR_BLUE && c != COLOUR_PURPLE;
    default: return true;
    }
}

static void surroundings(scene *s, chance *c) {
    s->back = (backdrop)chance_below(c, BACKDROP_COUNT);
    s->light = chance_real(c, 0.82, 1.12);
    s->texture = chance_bits(c);
}

static colour some_colour(const scene *s, chance *c) {
    for (;;) {
        colour col = (colour)chance_below(c, COLOUR_COUNT);
        if (visible(s->back, col)) return col;
    }
}

static bool alike(const scene *s, kind k, colour col) {
    for (int i = 0; i < s->n_group; i++)
        if (s->group[i].what == k || s->group[i].col == col) return true;
    return false;
}

/* A kind and a colour that no other group has: every question then has one answer. */
static void some_group(scene *s, chance *c, int count) {
    group *g = &s->group[s->n_group];
    do {
        g->what = (kind)chance_below(c, KIND_COUNT);
        g->col = some_colour(s, c);
    } while (alike(s, g->what, g->col));
    g->count = count;
    g->large = false;
    s->n_group++;
}

static bool crowded(const scene *s, double x, double y, double r) {
    for (int i = 0; i < s->n_object; i++) {
        const object *o = &s->object[i];
        if (hypot(o->x - x, o->y - y) < 1.08 * (o->r + r)) return true;
    }
    return false;
}

static void put(scene *s, chance *c, int g, double r) {
    double x = 0.5, y = 0.5;
    for (int i = 0; i < 400; i++) {
        if (i % 100 == 99) r *= 0.85;
        x = chance_real(c, r + 0.02, 0.98 - r);
        y = chance_real(c, r + 0.02, 0.98 - r);
        if (!crowded(s, x, y, r)) break;
    }
    s->object[s->n_object++] =
        (object){s->group[g].what, s->group[g].col, x, y, r, chance_real(c, -0.25, 0.25), g};
}

/* By kind: who is to describe a picture then knows in which order. */
static void sort_groups(scene *s) {
    for (int i = 1; i < s->n_group; i++)
        for (int k = i; k > 0 && s->group[k].what < s->group[k - 1].what; k--) {
            group swap = s->group[k];
            s->group[k] = s->group[k - 1];
            s->group[k - 1] = swap;
        }
}

void scene_make(scene *s, chance *c, int n_group, int most) {
    memset(s, 0, sizeof *s);
    surroundings(s, c);
    int left = most;
    for (int i = 0; i < n_group; i++) {
        int others = n_group - 1 - i; /* each needs one */
        int cap = left - others < OWLET_COUNT_MAX ? left - others : OWLET_COUNT_MAX;
        int count = chance_between(c, 1, cap);
        some_group(s, c, count);
        left -= count;
    }
    sort_groups(s);
    int total = 0;
    for (int i = 0; i < n_group; i++) total += s->group[i].count;
    double r = total <= 2   ? chance_real(c, 0.16, 0.24)
               : total <= 4 ? chance_real(c, 0.13, 0.17)
                            : chance_real(c, 0.10, 0.13);
    for (int i = 0; i < n_group; i++)
        for (int k = 0; k < s->group[i].count; k++) put(s, c, i, r * chance_real(c, 0.92, 1.08));
}

void scene_make_places(scene *s, chance *c, int n_object) {
    static const double AT[PLACE_COUNT][2] = {
        {0.2, 0.5}, {0.8, 0.5}, {0.5, 0.19}, {0.5, 0.81}, {0.5, 0.5}};
    int where[PLACE_COUNT];
    memset(s, 0, sizeof *s);
    surroundings(s, c);
    chance_order(c, where, PLACE_COUNT);
    for (int i = 0; i < n_object; i++) some_group(s, c, 1);
    sort_groups(s);
    for (int i = 0; i < n_object; i++) {
        double r = chance_real(c, 0.11, 0.145);
        s->object[s->n_object++] = (object){s->group[i].what,
                                            s->group[i].col,
                                            AT[where[i]][0] + chance_real(c, -0.03, 0.03),
                                            AT[where[i]][1] + chance_real(c, -0.03, 0.03),
                                            r,
                                            chance_real(c, -0.25, 0.25),
                                            i};
    }
}

void scene_make_sign(scene *s, chance *c, const char *text, bool with_object) {
    memset(s, 0, sizeof *s);
    surroundings(s, c);
    snprintf(s->sign, sizeof s->sign, "%s", text);
    s->sign_w = chance_real(c, 0.8, 0.95);
    s->sign_x = 0.5 + chance_real(c, -1, 1) * (0.48 - s->sign_w / 2);
    s->sign_y = with_object ? chance_real(c, 0.24, 0.3) : chance_real(c, 0.35, 0.65);
    s->sign_turn = chance_real(c, -0.2, 0.2);
    s->sign_font = chance_below(c, 1000);
    s->sign_col = some_colour(s, c);
    bool dark =
        s->sign_col != COLOUR_WHITE && s->sign_col != COLOUR_YELLOW && s->sign_col != COLOUR_PINK;
    s->ink = dark ? COLOUR_WHITE : COLOUR_BLACK;
    if (!with_object) return;
    do {
        s->n_group = 0;
        some_group(s, c, 1);
    } while (s->group[0].col == s->sign_col);
    s->object[s->n_object++] = (object){s->group[0].what,
                                        s->group[0].col,
                                        chance_real(c, 0.25, 0.75),
                                        chance_real(c, 0.7, 0.76),
                                        chance_real(c, 0.15, 0.2),
                                        chance_real(c, -0.2, 0.2),
                                        0};
}

place scene_place(const object *o) {
    double dx = o->x - 0.5, dy = o->y - 0.5;
    if (hypot(dx, dy) < 0.1) return PLACE_MIDDLE;
    if (fabs(dx) > 0.2 && fabs(dy) < 0.12) return dx < 0 ? PLACE_LEFT : PLACE_RIGHT;
    if (fabs(dy) > 0.2 && fabs(dx) < 0.12) return dy < 0 ? PLACE_TOP : PLACE_BOTTOM;
    return PLACE_COUNT;
}

place scene_group_place(const scene *s, int g) {
    if (s->group[g].count != 1) return PLACE_COUNT;
    for (int i = 0; i < s->n_object; i++)
        if (s->object[i].group == g) return scene_place(&s->object[i]);
    return PLACE_COUNT;
}

static void recolour(scene *s, int g, colour col) {
    s->group[g].col = col;
    for (int i = 0; i < s->n_object; i++)
        if (s->object[i].group == g) s->object[i].col = col;
}

static void remake(scene *s, int g, kind k) {
    s->group[g].what = k;
    for (int i = 0; i < s->n_object; i++)
        if (s->object[i].group == g) s->object[i].what = k;
}

static void remove_one(scene *s, int g) {
    for (int i = s->n_object - 1; i >= 0; i--) {
        if (s->object[i].group != g) continue;
        memmove(&s->object[i], &s->object[i + 1],
                (size_t)(s->n_object - 1 - i) * sizeof *s->object);
        s->n_object--;
        s->group[g].count--;
        return;
    }
}

static bool in_order(const scene *s) {
    for (int i = 1; i < s->n_group; i++)
        if (s->group[i].what < s->group[i - 1].what) return false;
    return true;
}

bool scene_change(const scene *a, scene *b, chance *c, change what, int *g) {
    *b = *a;
    *g = chance_below(c, a->n_group);
    b->texture = chance_bits(c);
    b->light = a->light * chance_real(c, 0.96, 1.04);
    bool full = a->group[*g].count == OWLET_COUNT_MAX || a->n_object >= 7;
    if (what == CHANGE_COUNT && a->group[*g].count > 1 && (full || chance_is(c, 0.5))) {
        remove_one(b, *g);
    } else if (what == CHANGE_COUNT) {
        put(b, c, *g, a->object[0].r * 0.9);
        b->group[*g].count++;
    }
    colour col;
    kind k;
    do {
        col = some_colour(a, c);
        k = (kind)chance_below(c, KIND_COUNT);
    } while (alike(a, k, col));
    if (what == CHANGE_COLOUR) recolour(b, *g, col);
    if (what == CHANGE_KIND) remake(b, *g, k);
    return in_order(b);
}
