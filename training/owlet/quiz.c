/*
 * quiz.c - for each ability: a scene or a paper in which the question has one answer, and the question (ask.h,
 * ask_paper.h).  In training more questions about the same picture follow, which costs little: the picture is
 * encoded once.
 */
#include "training/owlet/quiz.h"

#include "training/owlet/ask.h"
#include "training/owlet/ask_paper.h"
#include "training/owlet/photo.h"
#include "training/owlet/tell.h"

#include <stdio.h>

/* ---- pictures ---- */

static ty_status add_scene(record *r, const scene *s, const quiz_options *o, ty_err *err) {
    int i = r->n_picture++;
    return o->side ? photo_scene(s, o->side, &r->marks[i], &r->jpeg[i], &r->jpeg_size[i], err)
                   : TY_OK;
}

static ty_status add_paper(record *r, const paper *p, const quiz_options *o, ty_err *err) {
    int i = r->n_picture++;
    return o->side ? photo_paper(p, o->side, &r->marks[i], &r->jpeg[i], &r->jpeg_size[i], err)
                   : TY_OK;
}

/* ---- more questions about the same scene ---- */

typedef struct {
    ask_what what;
    int group;
} question;

/* What is learnt soon: in texts half of these questions are left out for the harder ones. */
static bool is_easy(ask_what what) {
    return what == ASK_COUNT || what == ASK_COLOUR || what == ASK_WHERE;
}

/* Further questions in random order until r has as many turns as o allows; the description, which gives much away, late. */
static void ask_more(record *r, chance *c, const scene *s, ask_what but, int but_group,
                     const quiz_options *o) {
    int turns = o->turns;
    question list[ASK_COUNT_OF * SCENE_GROUPS_MAX];
    int order[ASK_COUNT_OF * SCENE_GROUPS_MAX], n = 0;
    for (int what = 0; what < ASK_COUNT_OF; what++)
        for (int g = 0; g < SCENE_GROUPS_MAX; g++)
            if (ask_fits(s, (ask_what)what, g) && !((ask_what)what == but && g == but_group))
                list[n++] = (question){(ask_what)what, g};
    chance_order(c, order, n);
    bool describe_last = but != ASK_DESCRIBE && ask_fits(s, ASK_DESCRIBE, 0) && chance_is(c, 0.6);
    for (int i = 0; i < n; i++) {
        const question *q = &list[order[i]];
        if (!o->side && is_easy(q->what) && chance_is(c, 0.5)) continue;
        if (q->what != ASK_DESCRIBE && r->n_turn + ask_turns(q->what) + describe_last <= turns)
            ask(r, c, s, q->what, q->group, false);
    }
    if (describe_last && r->n_turn < turns) ask(r, c, s, ASK_DESCRIBE, 0, false);
}

static ty_status quiz_scene(record *r, chance *c, const scene *s, ask_what what, int g,
                            const quiz_options *o, ty_err *err) {
    tell_scene(s, &r->seen[0]);
    ask(r, c, s, what, g, o->held_out);
    if (o->turns > 1) ask_more(r, c, s, what, g, o);
    return add_scene(r, s, o, err);
}

/* ---- one function for each ability ---- */

static ty_status describe(record *r, chance *c, const quiz_options *o, ty_err *err) {
    scene s;
    scene_make(&s, c, chance_between(c, 1, 3), 5);
    return quiz_scene(r, c, &s, ASK_DESCRIBE, 0, o, err);
}

static ty_status count(record *r, chance *c, const quiz_options *o, ty_err *err) {
    scene s;
    scene_make(&s, c, chance_between(c, 1, 2), 7);
    return quiz_scene(r, c, &s, ASK_COUNT, chance_below(c, s.n_group), o, err);
}

static ty_status colour_of(record *r, chance *c, const quiz_options *o, ty_err *err) {
    scene s;
    scene_make(&s, c, chance_between(c, 1, 3), 5);
    return quiz_scene(r, c, &s, ASK_COLOUR, chance_below(c, s.n_group), o, err);
}

static ty_status where(record *r, chance *c, const quiz_options *o, ty_err *err) {
    scene s;
    scene_make_places(&s, c, chance_between(c, 1, 3));
    int g = chance_below(c, s.n_group);
    return quiz_scene(r, c, &s, chance_is(c, 0.6) ? ASK_WHERE : ASK_WHAT_THERE, g, o, err);
}

static ty_status follow(record *r, chance *c, const quiz_options *o, ty_err *err) {
    scene s;
    scene_make_places(&s, c, chance_between(c, 2, 3));
    int g = chance_below(c, s.n_group);
    return quiz_scene(r, c, &s, chance_is(c, 0.5) ? ASK_FOLLOW_COLOUR : ASK_FOLLOW_WHERE, g, o,
                      err);
}

static ty_status read_sign(record *r, chance *c, const quiz_options *o, ty_err *err) {
    char text[SCENE_TEXT];
    scene s;
    if (chance_is(c, 0.3))
        snprintf(text, sizeof text, "%d", chance_between(c, 10, 999));
    else
        snprintf(text, sizeof text, "%s", lexicon_sign(chance_below(c, lexicon_sign_count())));
    scene_make_sign(&s, c, text, chance_is(c, 0.4));
    return quiz_scene(r, c, &s, ASK_READ, 0, o, err);
}

static ty_status document(record *r, chance *c, const quiz_options *o, ty_err *err) {
    /* In training what must be looked up among several comes more often. */
    static const paper_kind OFTEN[] = {PAPER_RECEIPT, PAPER_RECEIPT, PAPER_RECEIPT, PAPER_BADGE,
                                       PAPER_TICKET,  PAPER_TICKET,  PAPER_CHART,   PAPER_CHART,
                                       PAPER_CHART,   PAPER_CHART,   PAPER_CHART};
    paper p;
    paper_make(&p, c,
               o->held_out ? (paper_kind)chance_below(c, PAPER_COUNT)
                           : OFTEN[chance_below(c, (int)(sizeof OFTEN / sizeof *OFTEN))]);
    tell_paper(&p, &r->seen[0]);
    if (o->turns > 1)
        ask_paper_all(r, c, &p, o->turns);
    else
        ask_paper(r, c, &p, o->held_out);
    return add_paper(r, &p, o, err);
}

static void describe_one(record *r, const scene *s, bool first) {
    static const char *const Q[2][LANG_COUNT] = {
        {"Describe the second picture.", "描述第二张图。", "二枚目の画像を説明してください。",
         "Beschreibe das zweite Bild."},
        {"Describe the first picture.", "描述第一张图。", "一枚目の画像を説明してください。",
         "Beschreibe das erste Bild."},
    };
    static const char *const A[LANG_COUNT] = {"It shows {list}.", "有{list}。", "{list}です。",
                                              "Zu sehen {listis} {list}."};
    facts f = ask_facts(s, 0);
    record_turn(r, Q[first][r->lang], A[r->lang], &f);
}

/* Two scenes that differ in group *g, or in nothing. */
static change make_pair(scene *a, scene *b, chance *c, int *g) {
    change what = (change)chance_below(c, CHANGE_COUNT_OF);
    do scene_make(a, c, chance_between(c, 1, 2), 4);
    while (!scene_change(a, b, c, what, g));
    return what;
}

/* What is the same is said after both have been named: a small LLM compares what it has just said, not what it has seen. */
static const char *const COLON[LANG_COUNT] = {": ", "：", "：", ": "};
static const char *const VERDICT[2][LANG_COUNT] = {{"different", "不同", "違います", "anders"},
                                                   {"the same", "一样", "同じです", "gleich"}};

/* Appends "First ONE, then TWO: the same." */
static void first_then(ty_buf *b, language l, const char *one, const char *two, bool same,
                       const facts *f) {
    static const char *const PART[LANG_COUNT][3] = {{"First ", ", then ", "."},
                                                    {"先是", "，后来是", "。"},
                                                    {"最初は", "、次は", "。"},
                                                    {"Erst ", ", dann ", "."}};
    ty_buf_puts(b, PART[l][0]);
    say(b, l, one, f);
    ty_buf_puts(b, PART[l][1]);
    say(b, l, two, f);
    ty_buf_printf(b, "%s%s%s", COLON[l], VERDICT[same][l], PART[l][2]);
}

/* A turn that such a sentence answers. */
static void ask_alike(record *r, const char *q, const char *one, const char *two, bool same,
                      facts f) {
    ty_buf text = ty_buf_make(1 << 14);
    first_then(&text, r->lang, one, two, same, &f);
    f.word = text.len ? text.data : "";
    record_turn(r, q, "{word}", &f);
    if (text.failed != TY_OK) r->answer[r->n_turn - 1].failed = text.failed;
    ty_buf_clear(&text);
}

static void ask_difference(record *r, chance *c, bool held_out, const scene *a, const scene *b,
                           change what, int g) {
    static const wording Q = {
        .held_out = 1,
        .about = {"the difference between the two pictures", "两张图的区别", "二枚の画像の違い",
                  "der Unterschied zwischen den zwei Bildern"},
        .direct = {
            [LANG_EN] = {"Name the difference between the two pictures.",
                         "What is different in the second picture?", "What has changed?",
                         "Compare the two pictures.", "What is the difference?",
                         "Name what is different.",
                         "Tell me what has changed between the pictures."},
            [LANG_ZH] = {"说出两张图的区别。", "第二张图有什么不同？", "什么变了？",
                         "比较这两张图。", "两张图有什么区别？", "说出第二张图的不同。",
                         "告诉我区别是什么。"},
            [LANG_JA] = {"二枚目の画像は何が違いますか。", "何が変わりましたか。",
                         "二つの画像を比べてください。", "違いは何ですか。",
                         "二枚の画像は何が違いますか。", "何が違うか教えてください。"},
            [LANG_DE] = {"Nenne den Unterschied zwischen den zwei Bildern.",
                         "Was ist im zweiten Bild anders?", "Was hat sich geändert?",
                         "Vergleiche die zwei Bilder.", "Was ist der Unterschied?",
                         "Nenne, was anders ist.", "Sag mir, was zwischen den Bildern anders ist."},
        }};
    ty_buf text = ty_buf_make(1 << 14);
    const char *gap = r->lang == LANG_EN || r->lang == LANG_DE ? " " : "";
    for (int i = 0; i < a->n_group; i++) {
        facts f = ask_facts(a, i);
        f.two = b->group[i];
        if (i) ty_buf_puts(&text, gap);
        first_then(&text, r->lang, "{nck}", "{nck2}", i != g || what == CHANGE_NOTHING, &f);
    }
    ask_turn_text(r, c, held_out, &Q, &text);
    for (int i = 0; i < a->n_group; i++) {
        bool same = i != g || what == CHANGE_NOTHING;
        facts two = {.one = b->group[i]};
        ty_buf_reset(&text);
        if (!same || what == CHANGE_NOTHING) say(&text, r->lang, "{nck}", &two);
        ty_buf_printf(&text, "%s%s", COLON[r->lang], VERDICT[same][r->lang]);
        record_expect(r, text.data ? text.data : "");
    }
    ty_buf_clear(&text);
    r->guess = 0.01;
}

typedef enum { SAME_COLOUR, SAME_COUNT, SAME_COUNT_OF } same;

/* Whether group g is the same in one thing. */
static void ask_same(record *r, const scene *a, const scene *b, same what, int g) {
    static const char *const Q[SAME_COUNT_OF][LANG_COUNT] = {
        {"Is the colour of {the} the same in both pictures?", "两张图里{k}的颜色一样吗？",
         "二枚の画像で{k}の色は同じですか。", "Ist die Farbe von {dem} in beiden Bildern gleich?"},
        {"Is the number of {many} the same in both pictures?", "两张图里{k}的数量一样吗？",
         "二枚の画像で{k}の数は同じですか。",
         "Ist die Anzahl der {many} in beiden Bildern gleich?"},
    };
    facts f = ask_facts(a, g);
    f.two = b->group[g];
    const char *q = Q[what][r->lang];
    if (what == SAME_COLOUR)
        ask_alike(r, q, "{colour}", "{colour2}", f.one.col == f.two.col, f);
    else
        ask_alike(r, q, "{nk}", "{nk2}", f.one.count == f.two.count, f);
}

/* Two things that are said, not seen, one of them with at most one change: all that is to be learnt from it is to judge. */
static void ask_said(record *r, chance *c) {
    static const char *const Q[2][LANG_COUNT] = {
        {"{nck}, {nck2}: is that the same?", "{nck}，{nck2}，一样吗？",
         "{nck}と{nck2}は同じですか。", "{nck}, {nck2}: ist das gleich?"},
        {"{colour}, {colour2}: is that the same?", "{colour}，{colour2}，一样吗？",
         "{colour}と{colour2}は同じですか。", "{colour}, {colour2}: ist das gleich?"},
    };
    static const char *const ONE[] = {"{nck}", "{colour}"}, *const TWO[] = {"{nck2}", "{colour2}"};
    facts f = {.one = {.what = (kind)chance_below(c, KIND_COUNT),
                       .col = (colour)chance_below(c, COLOUR_COUNT),
                       .count = chance_between(c, 1, 4)}};
    bool alike = chance_is(c, 0.5), colours = chance_is(c, 0.3);
    int step = 1 + chance_below(c, COLOUR_COUNT - 1), what = colours ? 0 : chance_below(c, 4);
    f.two = f.one;
    /* colours twice as often: they are what is confused */
    if (!alike && what < 2) f.two.col = (colour)(((int)f.one.col + step) % COLOUR_COUNT);
    if (!alike && what == 2) f.two.count = 1 + f.one.count % 4;
    if (!alike && what == 3) f.two.what = (kind)(((int)f.one.what + step) % KIND_COUNT);
    ask_alike(r, Q[colours][r->lang], ONE[colours], TWO[colours], alike, f);
}

void quiz_said(record *r, chance *c, int turns) {
    while (r->n_turn < turns) ask_said(r, c);
}

/* Up to `most` of those questions, in any order. */
static void ask_more_same(record *r, chance *c, const scene *a, const scene *b, int most) {
    int order[SAME_COUNT_OF * SCENE_GROUPS_MAX], n = a->n_group * SAME_COUNT_OF;
    chance_order(c, order, n);
    for (int i = 0; i < n && most > 0 && r->n_turn < RECORD_TURNS_MAX; i++) {
        int g = order[i] / SAME_COUNT_OF;
        same what = (same)(order[i] % SAME_COUNT_OF);
        if (a->group[g].what != b->group[g].what) continue;
        ask_same(r, a, b, what, g);
        most--;
    }
}

/* In texts more pairs follow: what differs is hard to learn, and a text can show as many as one likes. */
static void compare_more(record *r, chance *c, int pairs) {
    for (int i = 0; i < pairs && r->n_turn < RECORD_TURNS_MAX; i++) {
        scene a, b;
        int g;
        change what = make_pair(&a, &b, c, &g);
        const scene *const pair[] = {&a, &b};
        for (int k = 0; k < 2; k++) {
            ty_buf seen = ty_buf_make(1 << 14);
            tell_scene(pair[k], &seen);
            record_put_seen(&seen, &r->question[r->n_turn]);
            ty_buf_puts(&r->question[r->n_turn], "\nHuman: ");
            ty_buf_clear(&seen);
        }
        ask_difference(r, c, false, &a, &b, what, g);
        ask_more_same(r, c, &a, &b, 3);
    }
}

static ty_status compare(record *r, chance *c, const quiz_options *o, ty_err *err) {
    scene a, b;
    int g;
    change what = make_pair(&a, &b, c, &g);
    tell_scene(&a, &r->seen[0]);
    tell_scene(&b, &r->seen[1]);
    ask_difference(r, c, o->held_out, &a, &b, what, g);
    bool first = chance_is(c, 0.5);
    for (int i = 0; i < 2 && r->n_turn < o->turns; i++, first = !first)
        describe_one(r, first ? &a : &b, first);
    ask_more_same(r, c, &a, &b, o->side ? o->turns - r->n_turn : 3);
    if (!o->side && !o->held_out) {
        compare_more(r, c, 1);
        quiz_said(r, c, RECORD_TURNS_MAX);
    }
    ty_status st = add_scene(r, &a, o, err);
    return st == TY_OK ? add_scene(r, &b, o, err) : st;
}

ty_status quiz_make(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static ty_status (*const MAKE[ABILITY_COUNT_OF])(record *, chance *, const quiz_options *,
                                                     ty_err *) = {
        [ABILITY_DESCRIBE] = describe, [ABILITY_COUNT] = count,    [ABILITY_COLOUR] = colour_of,
        [ABILITY_PLACE] = where,       [ABILITY_READ] = read_sign, [ABILITY_DOCUMENT] = document,
        [ABILITY_COMPARE] = compare,   [ABILITY_FOLLOW] = follow,
    };
    if (!MAKE[r->what])
        return ty_fail(err, TY_EINVAL, "no pictures for the ability %s", ability_name(r->what));
    return MAKE[r->what](r, c, o, err);
}
