/* paper.c - receipts, badges, tickets and charts. */
#include "training/owlet/paper.h"

#include <stdio.h>
#include <string.h>

static const char *const GOODS[] = {"Tea",   "Milk",  "Bread", "Rice",  "Soup", "Cake",
                                    "Lemon", "Apple", "Juice", "Pizza", "Fish", "Eggs"};
enum { GOODS_COUNT = sizeof GOODS / sizeof *GOODS };

void paper_font(cairo_t *cr, int n, double size) {
    static const char *const FAMILY[] = {
        "DejaVu Sans",      "DejaVu Serif",           "DejaVu Sans Mono", "Liberation Sans",
        "Liberation Serif", "Liberation Sans Narrow", "FreeSans",         "FreeSerif"};
    const int count = (int)(sizeof FAMILY / sizeof *FAMILY);
    cairo_select_font_face(cr, FAMILY[n % count], CAIRO_FONT_SLANT_NORMAL,
                           n / count % 3 == 0 ? CAIRO_FONT_WEIGHT_NORMAL : CAIRO_FONT_WEIGHT_BOLD);
    cairo_set_font_size(cr, size);
}

static void make_receipt(paper *p, chance *c) {
    int order[GOODS_COUNT];
    chance_order(c, order, GOODS_COUNT);
    p->n = chance_between(c, 2, 3);
    for (int i = 0; i < p->n; i++) {
        p->label[i] = GOODS[order[i]];
        p->value[i] = chance_between(c, 1, 9);
        p->total += p->value[i];
    }
}

static void make_chart(paper *p, chance *c) {
    static const int BARS[] = {COLOUR_RED,    COLOUR_GREEN,  COLOUR_BLUE,
                               COLOUR_ORANGE, COLOUR_PURPLE, COLOUR_BLACK};
    int order[6], height[9];
    for (int i = 0; i < 6; i++) order[i] = BARS[i];
    for (int i = 0; i < 9; i++) height[i] = i + 1;
    chance_shuffle(c, order, 6);
    chance_shuffle(c, height, 9);
    p->n = chance_between(c, 3, 4);
    for (int i = 0; i < p->n; i++) {
        p->bar[i] = (colour)order[i];
        p->value[i] = height[i];
    }
}

void paper_make(paper *p, chance *c, paper_kind what) {
    memset(p, 0, sizeof *p);
    p->what = what;
    p->font = chance_below(c, 1000);
    p->turn = chance_real(c, -0.12, 0.12);
    p->texture = chance_bits(c);
    p->person = lexicon_person(chance_below(c, lexicon_person_count()));
    p->number = chance_between(c, 1, 99);
    p->day = chance_between(c, 1, 28);
    p->hour = chance_between(c, 1, 12);
    if (what == PAPER_RECEIPT) make_receipt(p, c);
    if (what == PAPER_CHART) make_chart(p, c);
}

int paper_bar(const paper *p, int sign) {
    int best = 0;
    for (int i = 1; i < p->n; i++)
        if (sign * p->value[i] > sign * p->value[best]) best = i;
    return best;
}

void paper_words(const paper *p, ty_buf *b) {
    switch (p->what) {
    case PAPER_RECEIPT:
        for (int i = 0; i < p->n; i++) ty_buf_printf(b, "%s %d, ", p->label[i], p->value[i]);
        ty_buf_printf(b, "Total %d", p->total);
        break;
    case PAPER_BADGE: ty_buf_printf(b, "%s, Room %d", p->person, p->number); break;
    case PAPER_TICKET:
        ty_buf_printf(b, "Day %d, Time %d, Seat %d", p->day, p->hour, p->number);
        break;
    default:
        for (int i = 0; i < p->n; i++)
            ty_buf_printf(b, "%s%s %d", i ? ", " : "", lexicon_shade(p->bar[i])->en, p->value[i]);
        break;
    }
}

/* Text with its left (-1), middle (0) or right (1) end at x, its base line at y. */
static void text(cairo_t *cr, double x, double y, int end, const char *s, landmarks *marks) {
    cairo_text_extents_t e;
    cairo_text_extents(cr, s, &e);
    cairo_move_to(cr, end < 0 ? x : end == 0 ? x - e.x_advance / 2 : x - e.x_advance, y);
    landmarks_text(marks, cr, s);
    cairo_show_text(cr, s);
}

/* The font at `size`, or smaller so that s is at most w wide. */
static void fit(cairo_t *cr, int font, double size, const char *s, double w) {
    cairo_text_extents_t e;
    paper_font(cr, font, size);
    cairo_text_extents(cr, s, &e);
    if (e.x_advance > w) paper_font(cr, font, size * w / e.x_advance);
}

static void number(cairo_t *cr, double x, double y, int end, int n, landmarks *marks) {
    char s[16];
    snprintf(s, sizeof s, "%d", n);
    text(cr, x, y, end, s, marks);
}

static void draw_receipt(cairo_t *cr, const paper *p, double w, double h, landmarks *marks) {
    double line = h / (p->n + 1.6), y = line * 0.95;
    fit(cr, p->font, line * 0.72, "Lemon 88", w * 0.88);
    for (int i = 0; i < p->n; i++) {
        text(cr, w * 0.06, y, -1, p->label[i], marks);
        number(cr, w * 0.94, y, 1, p->value[i], marks);
        y += line;
    }
    cairo_rectangle(cr, w * 0.05, y - line * 0.68, w * 0.9, line * 0.07);
    cairo_fill(cr);
    text(cr, w * 0.06, y + line * 0.3, -1, "Total", marks);
    number(cr, w * 0.94, y + line * 0.3, 1, p->total, marks);
}

static void draw_badge(cairo_t *cr, const paper *p, double w, double h, landmarks *marks) {
    cairo_save(cr);
    cairo_set_source_rgb(cr, 0.2, 0.35, 0.6);
    cairo_rectangle(cr, 0, 0, w, h * 0.22);
    cairo_fill(cr);
    cairo_set_source_rgb(cr, 1, 1, 1);
    paper_font(cr, p->font, h * 0.15);
    text(cr, w / 2, h * 0.165, 0, "VISITOR", marks);
    cairo_restore(cr);
    fit(cr, p->font, h * 0.3, p->person, w * 0.9);
    text(cr, w / 2, h * 0.56, 0, p->person, marks);
    char s[32];
    snprintf(s, sizeof s, "Room %d", p->number);
    fit(cr, p->font, h * 0.2, s, w * 0.9);
    text(cr, w / 2, h * 0.88, 0, s, marks);
}

static void draw_ticket(cairo_t *cr, const paper *p, double w, double h, landmarks *marks) {
    char s[32];
    double line = h / 3.3;
    fit(cr, p->font, line * 0.72, "Time 12", w * 0.88);
    snprintf(s, sizeof s, "Day %d", p->day);
    text(cr, w * 0.07, line * 0.95, -1, s, marks);
    snprintf(s, sizeof s, "Time %d", p->hour);
    text(cr, w * 0.07, line * 1.95, -1, s, marks);
    snprintf(s, sizeof s, "Seat %d", p->number);
    text(cr, w * 0.07, line * 2.95, -1, s, marks);
}

static void draw_chart(cairo_t *cr, const paper *p, double w, double h, landmarks *marks) {
    double base = h * 0.9, step = w * 0.9 / p->n;
    paper_font(cr, p->font, h * 0.14);
    for (int i = 0; i < p->n; i++) {
        const shade *s = lexicon_shade(p->bar[i]);
        double x = w * 0.07 + step * i, bar = p->value[i] / 9.0 * h * 0.7;
        cairo_set_source_rgb(cr, s->r, s->g, s->b);
        cairo_rectangle(cr, x, base - bar, step * 0.7, bar);
        cairo_fill(cr);
        int spots = 1 + (int)(bar / (step * 0.35));
        for (int k = 0; k < spots; k++)
            landmarks_bar(marks, cr, x + step * 0.35, base - bar * (k + 0.5) / spots, step * 0.35,
                          p->bar[i], i, p->value[i]);
        cairo_set_source_rgb(cr, 0.1, 0.1, 0.1);
        number(cr, x + step * 0.35, base - bar - h * 0.02, 0, p->value[i], marks);
    }
    cairo_set_line_width(cr, h * 0.015);
    cairo_move_to(cr, w * 0.04, h * 0.06);
    cairo_line_to(cr, w * 0.04, base);
    cairo_line_to(cr, w * 0.97, base);
    cairo_stroke(cr);
}

void paper_draw(cairo_t *cr, const paper *p, double w, double h, landmarks *marks) {
    cairo_set_source_rgb(cr, 0.98, 0.97, 0.94);
    cairo_rectangle(cr, -w * 0.02, -h * 0.02, w * 1.04, h * 1.04);
    cairo_fill(cr);
    cairo_set_source_rgb(cr, 0.08, 0.08, 0.1);
    switch (p->what) {
    case PAPER_RECEIPT: draw_receipt(cr, p, w, h, marks); break;
    case PAPER_BADGE: draw_badge(cr, p, w, h, marks); break;
    case PAPER_TICKET: draw_ticket(cr, p, w, h, marks); break;
    case PAPER_CHART: draw_chart(cr, p, w, h, marks); break;
    default: break;
    }
}
