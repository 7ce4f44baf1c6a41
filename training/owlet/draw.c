/*
 * draw.c - the kinds of objects, each in the square -1..1 with y downwards.  Most of the area has the object's
 * colour; details are darker or lighter shades of it, so that the colour that one would name is the group's.
 */
#include "training/owlet/draw.h"

#include <math.h>

typedef struct {
    cairo_t *cr;
    double r, g, b; /* the object's colour, a little off the shade */
} brush;

static void colour_by(const brush *p, double f) {
    double to = f > 1 ? 1 : 0, t = f > 1 ? f - 1 : 1 - f;
    cairo_set_source_rgb(p->cr, p->r + (to - p->r) * t, p->g + (to - p->g) * t,
                         p->b + (to - p->b) * t);
}

/* Fills the path with the colour shaded from the upper left, and outlines it. */
static void fill(const brush *p) {
    cairo_pattern_t *g = cairo_pattern_create_linear(-0.7, -1, 0.7, 1);
    cairo_pattern_add_color_stop_rgb(g, 0, p->r + (1 - p->r) * 0.22, p->g + (1 - p->g) * 0.22,
                                     p->b + (1 - p->b) * 0.22);
    cairo_pattern_add_color_stop_rgb(g, 0.45, p->r, p->g, p->b);
    cairo_pattern_add_color_stop_rgb(g, 1, p->r * 0.78, p->g * 0.78, p->b * 0.78);
    cairo_set_source(p->cr, g);
    cairo_fill_preserve(p->cr);
    cairo_pattern_destroy(g);
    double light = 0.3 * p->r + 0.59 * p->g + 0.11 * p->b;
    if (light < 0.15) {
        cairo_set_source_rgba(p->cr, 0.75, 0.75, 0.75, 0.9);
    } else {
        colour_by(p, 0.45);
    }
    cairo_set_line_width(p->cr, 0.06);
    cairo_stroke(p->cr);
}

/* Fills the path with one shade of the colour: a detail. */
static void detail(const brush *p, double f) {
    colour_by(p, f);
    cairo_fill(p->cr);
}

static void circle(const brush *p, double x, double y, double r) {
    cairo_new_sub_path(p->cr);
    cairo_arc(p->cr, x, y, r, 0, 2 * M_PI);
    cairo_close_path(p->cr);
}

static void oval(const brush *p, double x, double y, double rx, double ry) {
    cairo_save(p->cr);
    cairo_translate(p->cr, x, y);
    cairo_scale(p->cr, rx, ry);
    cairo_new_sub_path(p->cr);
    cairo_arc(p->cr, 0, 0, 1, 0, 2 * M_PI);
    cairo_close_path(p->cr);
    cairo_restore(p->cr);
}

static void polygon(const brush *p, const double (*xy)[2], int n) {
    cairo_new_sub_path(p->cr);
    for (int i = 0; i < n; i++) cairo_line_to(p->cr, xy[i][0], xy[i][1]);
    cairo_close_path(p->cr);
}

static void box(const brush *p, double x, double y, double w, double h) {
    cairo_rectangle(p->cr, x, y, w, h);
}

#define POLYGON(p, ...)                                                                            \
    do {                                                                                           \
        const double xy[][2] = {__VA_ARGS__};                                                      \
        polygon(p, xy, (int)(sizeof xy / sizeof *xy));                                             \
    } while (0)

static void dark(const brush *p) {
    cairo_set_source_rgb(p->cr, 0.12, 0.11, 0.11);
}

static void draw_ball(const brush *p) {
    circle(p, 0, 0, 0.92);
    fill(p);
    cairo_set_line_width(p->cr, 0.07);
    colour_by(p, 0.55);
    cairo_arc(p->cr, -1.1, 0, 1.1, -0.75, 0.75);
    cairo_stroke(p->cr);
    cairo_arc(p->cr, 1.1, 0, 1.1, M_PI - 0.75, M_PI + 0.75);
    cairo_stroke(p->cr);
}

static void draw_box(const brush *p) {
    POLYGON(p, {-0.9, -0.35}, {0.45, -0.35}, {0.45, 0.9}, {-0.9, 0.9});
    fill(p);
    POLYGON(p, {-0.9, -0.35}, {-0.4, -0.85}, {0.92, -0.85}, {0.45, -0.35});
    fill(p);
    POLYGON(p, {0.45, -0.35}, {0.92, -0.85}, {0.92, 0.4}, {0.45, 0.9});
    fill(p);
    box(p, -0.38, -0.35, 0.22, 1.25);
    detail(p, 0.7);
}

static void draw_star(const brush *p) {
    cairo_new_sub_path(p->cr);
    for (int i = 0; i < 10; i++) {
        double a = -M_PI / 2 + i * M_PI / 5, r = i % 2 ? 0.42 : 1;
        cairo_line_to(p->cr, r * cos(a), r * sin(a));
    }
    cairo_close_path(p->cr);
    fill(p);
}

static void draw_heart(const brush *p) {
    cairo_move_to(p->cr, 0, 0.92);
    cairo_curve_to(p->cr, -1.6, -0.25, -0.75, -1.35, 0, -0.45);
    cairo_curve_to(p->cr, 0.75, -1.35, 1.6, -0.25, 0, 0.92);
    cairo_close_path(p->cr);
    fill(p);
}

static void draw_tree(const brush *p) {
    cairo_set_source_rgb(p->cr, 0.36, 0.24, 0.14);
    box(p, -0.12, 0.4, 0.24, 0.6);
    cairo_fill(p->cr);
    POLYGON(p, {0, -1}, {0.5, -0.35}, {0.28, -0.35}, {0.68, 0.1}, {0.4, 0.1}, {0.85, 0.58},
            {-0.85, 0.58}, {-0.4, 0.1}, {-0.68, 0.1}, {-0.28, -0.35}, {-0.5, -0.35});
    fill(p);
}

static void draw_house(const brush *p) {
    box(p, -0.75, -0.15, 1.5, 1.1);
    fill(p);
    POLYGON(p, {-0.98, -0.12}, {0, -0.98}, {0.98, -0.12});
    fill(p);
    box(p, -0.15, 0.4, 0.34, 0.55);
    detail(p, 0.35);
    cairo_set_source_rgb(p->cr, 0.93, 0.95, 0.8);
    box(p, -0.58, 0.1, 0.28, 0.26);
    box(p, 0.32, 0.1, 0.28, 0.26);
    cairo_fill(p->cr);
}

static void draw_car(const brush *p) {
    POLYGON(p, {-0.55, -0.05}, {-0.32, -0.5}, {0.32, -0.5}, {0.6, -0.05}, {0.97, 0.05},
            {0.97, 0.45}, {-0.97, 0.45}, {-0.97, 0.0});
    fill(p);
    cairo_set_source_rgb(p->cr, 0.8, 0.9, 0.96);
    POLYGON(p, {-0.4, -0.08}, {-0.24, -0.38}, {-0.04, -0.38}, {-0.04, -0.08});
    POLYGON(p, {0.06, -0.08}, {0.06, -0.38}, {0.26, -0.38}, {0.42, -0.08});
    cairo_fill(p->cr);
    dark(p);
    circle(p, -0.5, 0.46, 0.23);
    circle(p, 0.52, 0.46, 0.23);
    cairo_fill(p->cr);
    cairo_set_source_rgb(p->cr, 0.7, 0.7, 0.7);
    circle(p, -0.5, 0.46, 0.1);
    circle(p, 0.52, 0.46, 0.1);
    cairo_fill(p->cr);
}

static void draw_fish(const brush *p) {
    POLYGON(p, {0.4, 0}, {0.98, -0.5}, {0.86, 0}, {0.98, 0.5});
    fill(p);
    oval(p, -0.2, 0, 0.78, 0.5);
    fill(p);
    POLYGON(p, {-0.3, -0.1}, {0.15, -0.05}, {-0.05, 0.25});
    detail(p, 0.65);
    cairo_set_source_rgb(p->cr, 1, 1, 1);
    circle(p, -0.65, -0.12, 0.12);
    cairo_fill(p->cr);
    dark(p);
    circle(p, -0.67, -0.12, 0.06);
    cairo_fill(p->cr);
}

static void draw_cup(const brush *p) {
    colour_by(p, 0.75);
    cairo_set_line_width(p->cr, 0.2);
    cairo_arc(p->cr, 0.5, 0.05, 0.33, -1.5, 1.5);
    cairo_stroke(p->cr);
    POLYGON(p, {-0.75, -0.6}, {0.55, -0.6}, {0.42, 0.75}, {-0.62, 0.75});
    fill(p);
    oval(p, -0.1, -0.6, 0.65, 0.16);
    detail(p, 0.5);
}

static void draw_flower(const brush *p) {
    cairo_set_source_rgb(p->cr, 0.2, 0.45, 0.18);
    box(p, -0.06, 0.2, 0.12, 0.8);
    cairo_fill(p->cr);
    for (int i = 0; i < 6; i++)
        circle(p, 0.46 * cos(i * M_PI / 3), -0.3 + 0.46 * sin(i * M_PI / 3), 0.3), fill(p);
    circle(p, 0, -0.3, 0.22);
    cairo_set_source_rgb(p->cr, 0.98, 0.9, 0.5);
    cairo_fill(p->cr);
}

static void draw_boat(const brush *p) {
    POLYGON(p, {-0.95, 0.35}, {0.95, 0.35}, {0.6, 0.85}, {-0.6, 0.85});
    fill(p);
    cairo_set_source_rgb(p->cr, 0.35, 0.24, 0.15);
    box(p, -0.06, -0.95, 0.1, 1.3);
    cairo_fill(p->cr);
    POLYGON(p, {0.1, -0.9}, {0.1, 0.22}, {0.82, 0.22});
    fill(p);
    POLYGON(p, {-0.12, -0.7}, {-0.12, 0.22}, {-0.7, 0.22});
    fill(p);
}

static void draw_umbrella(const brush *p) {
    cairo_set_source_rgb(p->cr, 0.3, 0.2, 0.15);
    cairo_set_line_width(p->cr, 0.1);
    cairo_move_to(p->cr, 0, 0);
    cairo_line_to(p->cr, 0, 0.75);
    cairo_arc_negative(p->cr, 0.16, 0.75, 0.16, M_PI, 0);
    cairo_stroke(p->cr);
    cairo_arc(p->cr, 0, 0.1, 0.98, M_PI, 0);
    for (int i = 3; i >= 0; i--) cairo_arc_negative(p->cr, -0.735 + 0.49 * i, 0.1, 0.245, 0, M_PI);
    cairo_close_path(p->cr);
    fill(p);
}

static void draw_mushroom(const brush *p) {
    cairo_set_source_rgb(p->cr, 0.93, 0.88, 0.78);
    POLYGON(p, {-0.24, 0}, {0.24, 0}, {0.34, 0.95}, {-0.34, 0.95});
    cairo_fill(p->cr);
    cairo_arc(p->cr, 0, 0.15, 0.98, M_PI, 0);
    cairo_close_path(p->cr);
    fill(p);
    colour_by(p, 1.75);
    circle(p, -0.4, -0.2, 0.15);
    circle(p, 0.25, -0.42, 0.17);
    circle(p, 0.58, -0.05, 0.11);
    cairo_fill(p->cr);
}

static void draw_apple(const brush *p) {
    cairo_set_source_rgb(p->cr, 0.35, 0.22, 0.1);
    cairo_set_line_width(p->cr, 0.12);
    cairo_move_to(p->cr, 0, -0.5);
    cairo_line_to(p->cr, 0.12, -0.98);
    cairo_stroke(p->cr);
    cairo_move_to(p->cr, 0, -0.5);
    cairo_curve_to(p->cr, 0.5, -0.95, 1.15, -0.5, 0.85, 0.2);
    cairo_curve_to(p->cr, 0.65, 0.85, 0.35, 1.0, 0, 0.85);
    cairo_curve_to(p->cr, -0.35, 1.0, -0.65, 0.85, -0.85, 0.2);
    cairo_curve_to(p->cr, -1.15, -0.5, -0.5, -0.95, 0, -0.5);
    cairo_close_path(p->cr);
    fill(p);
    cairo_set_source_rgb(p->cr, 0.25, 0.55, 0.2);
    oval(p, 0.34, -0.78, 0.22, 0.1);
    cairo_fill(p->cr);
}

static void draw_cat(const brush *p) {
    POLYGON(p, {-0.85, -0.95}, {-0.2, -0.55}, {-0.75, 0.0});
    fill(p);
    POLYGON(p, {0.85, -0.95}, {0.2, -0.55}, {0.75, 0.0});
    fill(p);
    oval(p, 0, 0.12, 0.9, 0.75);
    fill(p);
    cairo_set_source_rgb(p->cr, 0.95, 0.95, 0.75);
    oval(p, -0.35, 0, 0.17, 0.2);
    oval(p, 0.35, 0, 0.17, 0.2);
    cairo_fill(p->cr);
    dark(p);
    oval(p, -0.35, 0, 0.06, 0.17);
    oval(p, 0.35, 0, 0.06, 0.17);
    POLYGON(p, {-0.1, 0.28}, {0.1, 0.28}, {0, 0.4});
    cairo_fill(p->cr);
    colour_by(p, 0.4);
    cairo_set_line_width(p->cr, 0.05);
    for (int s = -1; s <= 1; s += 2)
        for (int i = -1; i <= 1; i++) {
            cairo_move_to(p->cr, s * 0.25, 0.38 + 0.05 * i);
            cairo_line_to(p->cr, s * 0.95, 0.36 + 0.16 * i);
            cairo_stroke(p->cr);
        }
}

static void draw_bird(const brush *p) {
    POLYGON(p, {0.45, 0.1}, {0.98, -0.12}, {0.95, 0.35});
    fill(p);
    oval(p, 0, 0.15, 0.68, 0.48);
    fill(p);
    circle(p, -0.52, -0.35, 0.36);
    fill(p);
    POLYGON(p, {-0.15, 0.05}, {0.5, 0.0}, {0.15, 0.42});
    detail(p, 0.62);
    cairo_set_source_rgb(p->cr, 0.95, 0.65, 0.1);
    POLYGON(p, {-0.84, -0.42}, {-1, -0.26}, {-0.82, -0.2});
    cairo_fill(p->cr);
    cairo_set_line_width(p->cr, 0.07);
    cairo_move_to(p->cr, -0.12, 0.6);
    cairo_line_to(p->cr, -0.12, 0.95);
    cairo_move_to(p->cr, 0.14, 0.6);
    cairo_line_to(p->cr, 0.14, 0.95);
    cairo_stroke(p->cr);
    cairo_set_source_rgb(p->cr, 1, 1, 1);
    circle(p, -0.58, -0.42, 0.1);
    cairo_fill(p->cr);
    dark(p);
    circle(p, -0.59, -0.42, 0.055);
    cairo_fill(p->cr);
}

static void draw_lamp(const brush *p) {
    cairo_set_source_rgb(p->cr, 0.4, 0.38, 0.36);
    box(p, -0.06, 0.1, 0.12, 0.75);
    oval(p, 0, 0.88, 0.42, 0.1);
    cairo_fill(p->cr);
    POLYGON(p, {-0.38, -0.92}, {0.38, -0.92}, {0.85, 0.18}, {-0.85, 0.18});
    fill(p);
}

static void draw_book(const brush *p) {
    POLYGON(p, {-0.75, -0.8}, {0.55, -0.95}, {0.75, 0.72}, {-0.55, 0.9});
    fill(p);
    cairo_set_source_rgb(p->cr, 0.95, 0.94, 0.9);
    POLYGON(p, {-0.55, 0.9}, {0.75, 0.72}, {0.75, 0.82}, {-0.52, 1.0});
    cairo_fill(p->cr);
    POLYGON(p, {-0.4, -0.5}, {0.32, -0.59}, {0.36, -0.3}, {-0.36, -0.2});
    detail(p, 1.7);
    colour_by(p, 0.5);
    cairo_set_line_width(p->cr, 0.07);
    cairo_move_to(p->cr, -0.58, -0.8);
    cairo_line_to(p->cr, -0.38, 0.88);
    cairo_stroke(p->cr);
}

static void draw_hat(const brush *p) {
    oval(p, 0, 0.5, 0.98, 0.22);
    fill(p);
    POLYGON(p, {-0.52, 0.45}, {-0.46, -0.6}, {0.46, -0.6}, {0.52, 0.45});
    fill(p);
    oval(p, 0, -0.6, 0.46, 0.12);
    detail(p, 1.2);
    POLYGON(p, {-0.52, 0.42}, {-0.5, 0.12}, {0.5, 0.12}, {0.52, 0.42});
    detail(p, 0.5);
}

static void draw_bottle(const brush *p) {
    cairo_move_to(p->cr, -0.15, -0.75);
    cairo_line_to(p->cr, 0.15, -0.75);
    cairo_line_to(p->cr, 0.15, -0.35);
    cairo_curve_to(p->cr, 0.48, -0.2, 0.45, 0, 0.45, 0.2);
    cairo_line_to(p->cr, 0.45, 0.98);
    cairo_line_to(p->cr, -0.45, 0.98);
    cairo_line_to(p->cr, -0.45, 0.2);
    cairo_curve_to(p->cr, -0.45, 0, -0.48, -0.2, -0.15, -0.35);
    cairo_close_path(p->cr);
    fill(p);
    box(p, -0.2, -0.98, 0.4, 0.24);
    detail(p, 0.4);
    box(p, -0.45, 0.25, 0.9, 0.36);
    detail(p, 1.65);
}

static void draw_key(const brush *p) {
    box(p, -0.15, -0.13, 1.1, 0.26);
    fill(p);
    box(p, 0.5, 0.1, 0.16, 0.34);
    fill(p);
    box(p, 0.76, 0.1, 0.16, 0.44);
    fill(p);
    cairo_new_path(p->cr);
    cairo_arc(p->cr, -0.5, 0, 0.48, 0, 2 * M_PI);
    cairo_new_sub_path(p->cr);
    cairo_arc_negative(p->cr, -0.58, 0, 0.2, 2 * M_PI, 0);
    cairo_close_path(p->cr);
    fill(p);
}

static void draw_kite(const brush *p) {
    POLYGON(p, {0, -0.98}, {0.62, -0.2}, {0, 0.6}, {-0.62, -0.2});
    fill(p);
    colour_by(p, 0.55);
    cairo_set_line_width(p->cr, 0.06);
    cairo_move_to(p->cr, 0, -0.98);
    cairo_line_to(p->cr, 0, 0.6);
    cairo_move_to(p->cr, -0.62, -0.2);
    cairo_line_to(p->cr, 0.62, -0.2);
    cairo_stroke(p->cr);
    cairo_move_to(p->cr, 0, 0.6);
    cairo_curve_to(p->cr, 0.4, 0.7, -0.3, 0.85, 0.2, 1);
    cairo_stroke(p->cr);
}

static void draw_moon(const brush *p) {
    cairo_arc(p->cr, 0.1, 0, 0.95, 0.85, 2 * M_PI - 0.85);
    cairo_curve_to(p->cr, 0.05, -0.6, 0.05, 0.6, 0.1 + 0.95 * cos(0.85), 0.95 * sin(0.85));
    cairo_close_path(p->cr);
    fill(p);
}

static void draw_chair(const brush *p) {
    box(p, -0.55, -0.95, 0.95, 0.85);
    fill(p);
    box(p, -0.65, 0.0, 1.3, 0.28);
    fill(p);
    box(p, -0.6, 0.28, 0.18, 0.7);
    fill(p);
    box(p, 0.42, 0.28, 0.18, 0.7);
    fill(p);
}

static void (*const DRAW[KIND_COUNT])(const brush *) = {
    [KIND_BALL] = draw_ball,         [KIND_BOX] = draw_box,       [KIND_STAR] = draw_star,
    [KIND_HEART] = draw_heart,       [KIND_TREE] = draw_tree,     [KIND_HOUSE] = draw_house,
    [KIND_CAR] = draw_car,           [KIND_FISH] = draw_fish,     [KIND_CUP] = draw_cup,
    [KIND_FLOWER] = draw_flower,     [KIND_BOAT] = draw_boat,     [KIND_UMBRELLA] = draw_umbrella,
    [KIND_MUSHROOM] = draw_mushroom, [KIND_APPLE] = draw_apple,   [KIND_CAT] = draw_cat,
    [KIND_BIRD] = draw_bird,         [KIND_LAMP] = draw_lamp,     [KIND_BOOK] = draw_book,
    [KIND_HAT] = draw_hat,           [KIND_BOTTLE] = draw_bottle, [KIND_KEY] = draw_key,
    [KIND_KITE] = draw_kite,         [KIND_MOON] = draw_moon,     [KIND_CHAIR] = draw_chair,
};

static double near(double x, double by) {
    x += by;
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

void draw_object(cairo_t *cr, const object *o, double w, double h, chance *c) {
    const shade *s = lexicon_shade(o->col);
    brush p = {cr, near(s->r, chance_real(c, -0.04, 0.04)), near(s->g, chance_real(c, -0.04, 0.04)),
               near(s->b, chance_real(c, -0.04, 0.04))};
    double side = w < h ? w : h;
    cairo_save(cr);
    cairo_translate(cr, o->x * w, o->y * h);
    cairo_save(cr); /* a soft shadow under it */
    cairo_scale(cr, o->r * side, o->r * side);
    cairo_pattern_t *soft = cairo_pattern_create_radial(0.08, 0.25, 0.3, 0.08, 0.25, 1.12);
    cairo_pattern_add_color_stop_rgba(soft, 0, 0, 0, 0, 0.3);
    cairo_pattern_add_color_stop_rgba(soft, 1, 0, 0, 0, 0);
    cairo_set_source(cr, soft);
    cairo_arc(cr, 0.08, 0.25, 1.15, 0, 2 * M_PI);
    cairo_fill(cr);
    cairo_pattern_destroy(soft);
    cairo_restore(cr);
    cairo_rotate(cr, o->turn);
    cairo_scale(cr, o->r * side * (o->turn < 0 ? -1 : 1), o->r * side);
    cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
    DRAW[o->what](&p);
    cairo_restore(cr);
}
