/* tell.c - pictures in words, and drills on them. */
#include "training/owlet/tell.h"

#include "training/owlet/ask.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_AT = 2 + 7 * SCENE_GROUPS_MAX, LETTERS = TELL_ROWS - TEXT_AT };

/* Fills rows until `to`. */
static int fill(ty_buf *b, int row, int to) {
    for (; row < to; row++) ty_buf_puts(b, " -\n");
    return row;
}

static void finish(ty_buf *b, int row) {
    fill(b, row, TELL_ROWS);
    ty_buf_puts(b, ")");
}

static void tell_group(ty_buf *b, const group *g, place where) {
    static const char *const PLACE[PLACE_COUNT + 1] = {
        [PLACE_LEFT] = "left",     [PLACE_RIGHT] = "right",   [PLACE_TOP] = "top",
        [PLACE_BOTTOM] = "bottom", [PLACE_MIDDLE] = "middle", [PLACE_COUNT] = "-"};
    const char *k = lexicon_noun(g->what)->en, *shade_of = lexicon_shade(g->col)->en;
    ty_buf_printf(b, " %s\n %s\n %s\n %s\n %s\n %s\n %s\n", k, shade_of,
                  lexicon_number(g->count, LANG_EN), PLACE[where], k, shade_of, k);
}

/* A row for each character, letters large.  The first letter has a space in front of it, as words have; a digit is a piece
 * of its own, which a space would only make two of. */
static int spell(ty_buf *b, const char *text) {
    int n = 0;
    for (const char *p = text; *p; p++, n++)
        ty_buf_printf(b, n == 0 && isalpha((unsigned char)*p) ? " %c\n" : "%c\n",
                      toupper((unsigned char)*p));
    return n;
}

static int tell_number(ty_buf *b, int n) {
    char digits[16];
    snprintf(digits, sizeof digits, "%d", n);
    return spell(b, digits);
}

void tell_scene(const scene *s, ty_buf *b) {
    ty_buf_printf(b, "%d\n %s\n", s->n_group, s->sign[0] ? "sign" : "picture");
    for (int g = 0; g < s->n_group; g++) tell_group(b, &s->group[g], scene_group_place(s, g));
    int row = fill(b, 2 + 7 * s->n_group, TEXT_AT);
    finish(b, row + spell(b, s->sign));
}

/* A label and a number in `width` rows. */
static int tell_line(ty_buf *b, int row, int width, const char *label, int n) {
    ty_buf_printf(b, " %s\n", label);
    return fill(b, row + 1 + tell_number(b, n), row + width);
}

void tell_paper(const paper *p, ty_buf *b) {
    static const char *const A[PAPER_COUNT] = {[PAPER_RECEIPT] = "receipt",
                                               [PAPER_BADGE] = "badge",
                                               [PAPER_TICKET] = "ticket",
                                               [PAPER_CHART] = "chart"};
    int row = 2;
    ty_buf_printf(b, "%d\n %s\n", p->n, A[p->what]);
    switch (p->what) {
    case PAPER_RECEIPT:
        for (int i = 0; i < p->n; i++) row = tell_line(b, row, 2, p->label[i], p->value[i]);
        row = fill(b, row, 2 + 2 * PAPER_LINES_MAX);
        row = tell_line(b, row, 3, "Total", p->total);
        break;
    case PAPER_BADGE:
        row = fill(b, row + spell(b, p->person), row + LETTERS);
        row = tell_line(b, row, 3, "Room", p->number);
        break;
    case PAPER_TICKET:
        row = tell_line(b, row, 3, "Day", p->day);
        row = tell_line(b, row, 3, "Time", p->hour);
        row = tell_line(b, row, 3, "Seat", p->number);
        break;
    default:
        for (int i = 0; i < p->n; i++)
            row = tell_line(b, row, 2, lexicon_shade(p->bar[i])->en, p->value[i]);
        row = fill(b, row, 2 + 2 * PAPER_LINES_MAX);
        ty_buf_printf(b, " top\n %s\n bottom\n %s\n", lexicon_shade(p->bar[paper_bar(p, 1)])->en,
                      lexicon_shade(p->bar[paper_bar(p, -1)])->en);
        row += 4;
        break;
    }
    finish(b, row);
}

/* ---- drills ---- */

enum { GROUPS = 8, AGAIN = 10 };

typedef struct {
    wording ask;
    const char *pair, *sentence[LANG_COUNT]; /* NULL: in pairs alone */
    bool places;                             /* only where each group has a place */
    bool again; /* what is asked comes in any order, and again and again */
} exercise;

/* The first one comes first: "hat grey" has the colour right behind the thing, as the picture in words has it, which is
 * the easiest to learn; all others are learnt once it is.  Then the others of these, the other way round.  As the list
 * goes on at random, again and again, nothing can be had by leaving out what was said before. */
static const exercise FIRST[] = {
    {.ask = {.about = {"things with their colours", "东西和颜色", "ものと色", "Dinge mit Farbe"},
             .direct = {{"Name things with their colours."},
                        {"说出东西和颜色。"},
                        {"ものと色を挙げてください。"},
                        {"Nenne Dinge mit Farbe."}}},
     .pair = "{k} {colour}",
     .again = true},
    {.ask = {.about = {"colours with their things", "颜色和东西", "色ともの", "Farben mit Ding"},
             .direct = {{"Name colours with their things."},
                        {"说出颜色和东西。"},
                        {"色とものを挙げてください。"},
                        {"Nenne Farben mit Ding."}}},
     .pair = "{colour} {k}",
     .again = true},
    {.ask = {.about = {"places with their things", "位置和东西", "場所ともの", "Orte mit Ding"},
             .direct = {{"Name places with their things."},
                        {"说出位置和东西。"},
                        {"場所とものを挙げてください。"},
                        {"Nenne Orte mit Ding."}}},
     .pair = "{place} {k}",
     .places = true,
     .again = true},
};
enum { FIRSTS = sizeof FIRST / sizeof *FIRST };

static const exercise EXERCISE[] = {
    {.ask = {.about = {"all colours", "所有颜色", "すべての色", "alle Farben"},
             .direct = {{"List the colours."},
                        {"列出颜色。"},
                        {"色を並べてください。"},
                        {"Nenne die Farben."}}},
     .pair = "{k}: {colour}",
     .sentence = {"{The} {is} {colour}.", "{k}是{colour}的。", "{k}は{colour}です。",
                  "{The} {is} {colour}."}},
    {.ask = {.about = {"all things by colour", "各种颜色的东西", "色ごとのもの",
                       "alle Dinge nach Farbe"},
             .direct = {{"List what has which colour."},
                        {"按颜色列出。"},
                        {"色で並べてください。"},
                        {"Nenne alles nach Farbe."}}},
     .pair = "{colour}: {k}",
     .sentence = {"Seen in {colour}: {nk}.", "{colour}的是{nk}。", "{ofcolour}ものは{nk}です。",
                  "Zu sehen in {colour}: {nk}."}},
    {.ask = {.about = {"all in another order", "换个顺序的全部", "別の順番のすべて",
                       "alles in anderer Reihenfolge"},
             .direct = {{"List all in another order."},
                        {"换个顺序列出。"},
                        {"別の順番で並べてください。"},
                        {"Nenne alles in anderer Reihenfolge."}}},
     .pair = "{k} {colour} {n}"},
    {.ask = {.about = {"all numbers", "所有数量", "すべての数", "alle Anzahlen"},
             .direct = {{"List how many there are."},
                        {"列出数量。"},
                        {"数を並べてください。"},
                        {"Nenne die Anzahlen."}}},
     .pair = "{k}: {n}"},
    {.ask = {.about = {"all places", "所有位置", "すべての場所", "alle Orte"},
             .direct = {{"List the places."},
                        {"列出位置。"},
                        {"場所を並べてください。"},
                        {"Nenne die Orte."}}},
     .pair = "{k}: {place}",
     .sentence = {"{The} is {place}.", "{k}在{place}。", "{k}は{place}です。",
                  "{The} ist {place}."},
     .places = true},
    {.ask = {.about = {"all things by place", "各个位置的东西", "場所ごとのもの",
                       "alle Dinge nach Ort"},
             .direct = {{"List what is where."},
                        {"按位置列出。"},
                        {"場所で並べてください。"},
                        {"Nenne alles nach Ort."}}},
     .pair = "{place}: {k}",
     .sentence = {"Seen {place}: {ck}.", "{place}是{ck}。", "{place}は{ck}です。",
                  "Zu sehen {place}: {ck}."},
     .places = true},
};
enum { EXERCISES = sizeof EXERCISE / sizeof *EXERCISE };

static void do_exercise(record *r, chance *c, const exercise *e, const group *g, const place *where,
                        int n) {
    ty_buf text = ty_buf_make(1 << 14);
    const char *form = e->sentence[r->lang] && chance_is(c, 0.5) ? e->sentence[r->lang] : NULL;
    const char *gap = !form ? ", " : r->lang == LANG_EN || r->lang == LANG_DE ? " " : "";
    int order[AGAIN];
    chance_order(c, order, n);
    for (int i = 0; i < AGAIN && e->again; i++) order[i] = chance_below(c, n);
    for (int i = 0; i < (e->again ? AGAIN : n); i++) {
        facts f = {.one = g[order[i]], .where = where[order[i]]};
        if (i) ty_buf_puts(&text, gap);
        say(&text, r->lang, form ? form : e->pair, &f);
    }
    ask_turn_text(r, c, false, &e->ask, &text);
    ty_buf_clear(&text);
}

void tell_drill(record *r, chance *c, drill what) {
    int kinds[KIND_COUNT], colours[COLOUR_COUNT], places[PLACE_COUNT], order[EXERCISES];
    bool placed = chance_is(c, 0.5);
    int n = chance_between(c, 2, placed ? PLACE_COUNT : GROUPS);
    group g[GROUPS];
    place where[GROUPS];
    chance_order(c, kinds, KIND_COUNT);
    chance_order(c, colours, COLOUR_COUNT);
    chance_order(c, places, PLACE_COUNT);
    chance_order(c, order, EXERCISES);
    for (int i = 0; i < n; i++) {
        g[i] = (group){.what = (kind)kinds[i],
                       .col = (colour)colours[i],
                       .count = placed ? 1 : chance_between(c, 1, OWLET_COUNT_MAX)};
        where[i] = placed ? (place)places[i] : PLACE_COUNT;
    }
    ty_buf_printf(&r->seen[0], "%d\n picture\n", n);
    for (int i = 0; i < n; i++) tell_group(&r->seen[0], &g[i], where[i]);
    ty_buf_puts(&r->seen[0], ")");
    if (what == DRILL_FORTH)
        for (int i = 0; i < 2; i++) do_exercise(r, c, &FIRST[0], g, where, n);
    if (what == DRILL_BACK)
        for (int i = 1; i < FIRSTS; i++) do_exercise(r, c, &FIRST[placed ? i : 1], g, where, n);
    if (what != DRILL_ALL) return;
    int firsts[FIRSTS];
    chance_order(c, firsts, FIRSTS);
    for (int i = 0, done = 0; i < FIRSTS && done < 2; i++)
        if (placed || !FIRST[firsts[i]].places) {
            do_exercise(r, c, &FIRST[firsts[i]], g, where, n);
            done++;
        }
    for (int i = 0; i < EXERCISES; i++)
        if (placed || !EXERCISE[order[i]].places)
            do_exercise(r, c, &EXERCISE[order[i]], g, where, n);
}
