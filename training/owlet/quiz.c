/*
 * quiz.c - for each ability: a scene or a paper in which the question has one answer, the question in one of
 * several wordings, the answer, and what a right answer must contain.
 *
 * Wordings: the last one of each list is kept for the exam, so that the exam asks in words never trained on.
 */
#include "training/owlet/quiz.h"

#include "training/owlet/photo.h"

#include <stdio.h>

enum { WORDINGS = 4 }; /* three to train, one held out */
typedef const char *const wordings[LANG_COUNT][WORDINGS];

static const char *pick(wordings w, language l, chance *c, const quiz_options *o) {
    return w[l][o->held_out ? WORDINGS - 1 : chance_below(c, WORDINGS - 1)];
}

/* ---- pictures ---- */

static ty_status add_scene(record *r, const scene *s, const quiz_options *o, ty_err *err) {
    int i = r->n_picture++;
    return o->side ? photo_scene(s, o->side, &r->jpeg[i], &r->jpeg_size[i], err) : TY_OK;
}

static ty_status add_paper(record *r, const paper *p, const quiz_options *o, ty_err *err) {
    int i = r->n_picture++;
    return o->side ? photo_paper(p, o->side, &r->jpeg[i], &r->jpeg_size[i], err) : TY_OK;
}

/* The scene in words, in English: places too, where they are clear. */
static void see(record *r, const scene *s) {
    if (r->seen.len) ty_buf_puts(&r->seen, "; then ");
    for (int i = 0; i < s->n_group; i++) {
        facts f = {.one = s->group[i], .where = PLACE_COUNT};
        for (int k = 0; k < s->n_object; k++)
            if (s->object[k].group == i && s->group[i].count == 1)
                f.where = scene_place(&s->object[k]);
        if (i) ty_buf_puts(&r->seen, ", ");
        say(&r->seen, LANG_EN, f.where == PLACE_COUNT ? "{nck}" : "{nck} {place}", &f);
    }
    if (s->sign[0]) ty_buf_printf(&r->seen, "%sa sign: %s", s->n_group ? ", " : "", s->sign);
}

static facts about(const scene *s, int g) {
    return (facts){.one = s->group[g], .list = s->group, .n_list = s->n_group};
}

/* ---- one function for each ability ---- */

static ty_status describe(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static wordings Q = {
        [LANG_EN] = {"Describe the picture.", "What is in this picture?", "What can you see?",
                     "Tell me what the picture shows."},
        [LANG_ZH] = {"描述这张图片。", "图里有什么？", "你看到了什么？", "请说说图片的内容。"},
        [LANG_JA] = {"画像を説明してください。", "何が写っていますか。", "何が見えますか。",
                     "この画像について話してください。"},
        [LANG_DE] = {"Beschreibe das Bild.", "Was ist auf diesem Bild?", "Was siehst du?",
                     "Sag mir, was das Bild zeigt."},
    };
    static const char *const A[LANG_COUNT] = {"The picture shows {list}.", "图里有{list}。",
                                              "{list}が写っています。",
                                              "Zu sehen {listis} {list}."};
    scene s;
    scene_make(&s, c, chance_between(c, 1, 3), 5);
    facts f = about(&s, 0);
    see(r, &s);
    record_turn(r, pick(Q, r->lang, c, o), A[r->lang], &f);
    for (int i = 0; i < s.n_group; i++) {
        record_expect_number(r, s.group[i].count);
        record_expect_colour(r, s.group[i].col);
        record_expect_kind(r, s.group[i].what);
    }
    r->guess = 0.001;
    return add_scene(r, &s, o, err);
}

static ty_status count(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static wordings Q = {
        [LANG_EN] = {"How many {many} are there?", "Count the {many}.",
                     "How many {many} do you see?", "What is the number of {many} in the picture?"},
        [LANG_ZH] = {"有几{m}{k}？", "数一数{k}。", "你看到几{m}{k}？", "图中{k}的数量是多少？"},
        [LANG_JA] = {"{k}はいくつありますか。", "{k}を数えてください。", "{k}はいくつ見えますか。",
                     "{k}の数を教えてください。"},
        [LANG_DE] = {"Wie viele {many} gibt es?", "Zähle die {many}.",
                     "Wie viele {many} siehst du?", "Nenne die Anzahl der {many}."},
    };
    static const char *const A[LANG_COUNT] = {"There {is} {nk}.", "有{nk}。", "{nk}です。",
                                              "Es {is} {nk}."};
    scene s;
    scene_make(&s, c, chance_between(c, 1, 2), 7);
    facts f = about(&s, chance_below(c, s.n_group));
    see(r, &s);
    record_turn(r, pick(Q, r->lang, c, o), A[r->lang], &f);
    record_expect_number(r, f.one.count);
    r->guess = 1.0 / OWLET_COUNT_MAX;
    return add_scene(r, &s, o, err);
}

static ty_status colour_of(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static wordings Q = {
        [LANG_EN] = {"What colour {is} {the}?", "Which colour {is} {the}?",
                     "Tell me the colour of {the}.", "{The}: what colour?"},
        [LANG_ZH] = {"{k}是什么颜色的？", "{k}的颜色是什么？", "告诉我{k}的颜色。",
                     "请问{k}是哪种颜色？"},
        [LANG_JA] = {"{k}は何色ですか。", "{k}の色は何ですか。", "{k}の色を教えてください。",
                     "{k}はどんな色ですか。"},
        [LANG_DE] = {"Welche Farbe: {the}?", "In welcher Farbe {is} {the}?",
                     "Nenne die Farbe: {k}.", "{The}: welche Farbe?"},
    };
    static const char *const A[LANG_COUNT] = {"{The} {is} {colour}.", "{k}是{colour}的。",
                                              "{k}は{colour}です。", "{The} {is} {colour}."};
    scene s;
    scene_make(&s, c, chance_between(c, 1, 3), 5);
    facts f = about(&s, chance_below(c, s.n_group));
    see(r, &s);
    record_turn(r, pick(Q, r->lang, c, o), A[r->lang], &f);
    record_expect_colour(r, f.one.col);
    r->guess = 1.0 / COLOUR_COUNT;
    return add_scene(r, &s, o, err);
}

static void expect_place(record *r, place p) {
    record_expect(r, lexicon_place(p, r->lang));
}

static ty_status where(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static wordings Q = {
        [LANG_EN] = {"Where is {the}?", "On which side is {the}?", "Tell me where {the} is.",
                     "In what part of the picture is {the}?"},
        [LANG_ZH] = {"{k}在哪里？", "{k}在哪边？", "告诉我{k}的位置。", "{k}位于图片的什么位置？"},
        [LANG_JA] = {"{k}はどこですか。", "{k}はどの位置ですか。", "{k}の場所を教えてください。",
                     "{k}は画像のどこにありますか。"},
        [LANG_DE] = {"Wo ist {the}?", "Auf welcher Seite ist {the}?", "Sag mir, wo {the} ist.",
                     "In welchem Teil des Bildes ist {the}?"},
    };
    static const char *const A[LANG_COUNT] = {"{The} is {place}.", "{k}在{place}。",
                                              "{k}は{place}です。", "{The} ist {place}."};
    static wordings Q_WHAT = {
        [LANG_EN] = {"What is {place}?", "Which object is {place}?", "Name the thing {place}.",
                     "What do you see {place}?"},
        [LANG_ZH] = {"{place}是什么？", "{place}有什么？", "说出{place}的东西。",
                     "你在{place}看到什么？"},
        [LANG_JA] = {"{place}は何ですか。", "{place}にあるものは何ですか。",
                     "{place}のものを教えてください。", "{place}に何が見えますか。"},
        [LANG_DE] = {"Was ist {place}?", "Welches Ding ist {place}?", "Nenne das Ding {place}.",
                     "Was siehst du {place}?"},
    };
    static const char *const A_WHAT[LANG_COUNT] = {"It is {ck}.", "是{ck}。", "{ck}です。",
                                                   "Es ist {ck}."};
    scene s;
    scene_make_places(&s, c, chance_between(c, 1, 3));
    int g = chance_below(c, s.n_group);
    facts f = about(&s, g);
    f.where = scene_place(&s.object[g]);
    see(r, &s);
    if (chance_is(c, 0.6)) {
        record_turn(r, pick(Q, r->lang, c, o), A[r->lang], &f);
        expect_place(r, f.where);
        r->guess = 1.0 / PLACE_COUNT;
    } else {
        record_turn(r, pick(Q_WHAT, r->lang, c, o), A_WHAT[r->lang], &f);
        record_expect_kind(r, f.one.what);
        r->guess = 1.0 / KIND_COUNT;
    }
    return add_scene(r, &s, o, err);
}

static ty_status read_sign(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static wordings Q = {
        [LANG_EN] = {"What does the sign say?", "Read the sign.", "What is written there?",
                     "Which text is on the sign?"},
        [LANG_ZH] = {"牌子上写着什么？", "读一读牌子。", "上面写了什么？", "牌子上的文字是什么？"},
        [LANG_JA] = {"看板に何と書いてありますか。", "看板を読んでください。",
                     "何と書いてありますか。", "看板の文字は何ですか。"},
        [LANG_DE] = {"Was steht auf dem Schild?", "Lies das Schild.", "Was steht dort?",
                     "Welcher Text ist auf dem Schild?"},
    };
    static const char *const A[LANG_COUNT] = {"The sign says {word}.", "牌子上写着{word}。",
                                              "{word}と書いてあります。", "Dort steht {word}."};
    char text[SCENE_TEXT];
    scene s;
    facts f = {.word = text};
    if (chance_is(c, 0.3))
        snprintf(text, sizeof text, "%d", chance_between(c, 10, 999));
    else
        snprintf(text, sizeof text, "%s", lexicon_sign(chance_below(c, lexicon_sign_count())));
    scene_make_sign(&s, c, text, chance_is(c, 0.4));
    see(r, &s);
    record_turn(r, pick(Q, r->lang, c, o), A[r->lang], &f);
    record_expect(r, text);
    r->guess = 0.7 / lexicon_sign_count();
    return add_scene(r, &s, o, err);
}

/* A question about one field of a paper, and its answer. */
typedef struct {
    const char *q[LANG_COUNT], *a[LANG_COUNT];
} field;

static const field TOTAL = {
    {"What is the total?", "总共多少？", "合計はいくらですか。", "Wie hoch ist die Summe?"},
    {"The total is {number}.", "总共是{number}。", "合計は{number}です。",
     "Die Summe ist {number}."}};
static const field PRICE = {
    {"What does {word} cost?", "{word}多少钱？", "{word}はいくらですか。", "Was kostet {word}?"},
    {"{word} costs {number}.", "{word}的价格是{number}。", "{word}は{number}です。",
     "{word} kostet {number}."}};
static const field NAME = {
    {"Which name is on the badge?", "胸牌上的名字是什么？", "名札の名前は何ですか。",
     "Welcher Name steht auf dem Schild?"},
    {"The name is {word}.", "名字是{word}。", "名前は{word}です。", "Der Name ist {word}."}};
static const field ROOM = {
    {"Which room is it?", "是哪个房间？", "部屋は何番ですか。", "Welcher Raum ist es?"},
    {"It is room {number}.", "是{number}号房间。", "{number}番です。", "Es ist Raum {number}."}};
static const field DAY = {
    {"Which day is the ticket for?", "票是哪一天的？", "何日の切符ですか。",
     "Für welchen Tag ist die Karte?"},
    {"It is for day {number}.", "是{number}号。", "{number}日です。", "Für Tag {number}."}};
static const field HOUR = {
    {"At what time does it start?", "几点开始？", "何時に始まりますか。",
     "Um wie viel Uhr beginnt es?"},
    {"It starts at {number}.", "{number}点开始。", "{number}時です。", "Um {number} Uhr."}};
static const field SEAT = {
    {"Which seat is it?", "座位是几号？", "座席は何番ですか。", "Welcher Platz ist es?"},
    {"It is seat {number}.", "是{number}号座位。", "座席は{number}番です。",
     "Es ist Platz {number}."}};
static const field BAR = {
    {"How high is the {colour} bar?", "{colour}的柱子有多高？",
     "{ofcolour}棒の高さはいくつですか。", "Wie hoch ist der Balken in {colour}?"},
    {"It is {number}.", "是{number}。", "{number}です。", "Er ist {number}."}};
static const field HIGHEST = {{"Which bar is the highest?", "哪根柱子最高？",
                               "一番高い棒は何色ですか。", "Welcher Balken ist der höchste?"},
                              {"The {colour} bar is the highest.", "{colour}的柱子最高。",
                               "{colour}です。", "Der höchste ist {colour}."}};
static const field LOWEST = {{"Which bar is the lowest?", "哪根柱子最低？",
                              "一番低い棒は何色ですか。", "Welcher Balken ist der niedrigste?"},
                             {"The {colour} bar is the lowest.", "{colour}的柱子最低。",
                              "{colour}です。", "Der niedrigste ist {colour}."}};

static void ask_field(record *r, const field *t, const facts *f, bool held_out) {
    static const char *const PLEASE[LANG_COUNT] = {"Look at the picture. ", "请看图。",
                                                   "画像を見てください。", "Sieh das Bild an. "};
    char q[256];
    snprintf(q, sizeof q, "%s%s", held_out ? PLEASE[r->lang] : "", t->q[r->lang]);
    record_turn(r, q, t->a[r->lang], f);
}

static int extreme_bar(const paper *p, int sign) {
    int best = 0;
    for (int i = 1; i < p->n; i++)
        if (sign * p->value[i] > sign * p->value[best]) best = i;
    return best;
}

static void expect_digits(record *r, int n) {
    char digits[16];
    snprintf(digits, sizeof digits, "%d", n);
    record_expect(r, digits);
}

static void ask_receipt(record *r, chance *c, const paper *p, bool held_out) {
    int i = chance_below(c, p->n);
    bool total = chance_is(c, 0.4);
    facts f = {.word = p->label[i], .number = total ? p->total : p->value[i]};
    ask_field(r, total ? &TOTAL : &PRICE, &f, held_out);
    expect_digits(r, f.number);
    r->guess = total ? 0.06 : 1.0 / 9;
}

static void ask_badge(record *r, chance *c, const paper *p, bool held_out) {
    facts f = {.word = p->person, .number = p->number};
    bool name = chance_is(c, 0.5);
    ask_field(r, name ? &NAME : &ROOM, &f, held_out);
    if (name)
        record_expect(r, p->person);
    else
        expect_digits(r, p->number);
    r->guess = name ? 1.0 / lexicon_person_count() : 0.01;
}

static void ask_ticket(record *r, chance *c, const paper *p, bool held_out) {
    const field *const FIELD[] = {&DAY, &HOUR, &SEAT};
    const int value[] = {p->day, p->hour, p->number};
    int i = chance_below(c, 3);
    facts f = {.number = value[i]};
    ask_field(r, FIELD[i], &f, held_out);
    expect_digits(r, f.number);
    r->guess = i == 0 ? 1.0 / 28 : i == 1 ? 1.0 / 12 : 0.01;
}

static void ask_chart(record *r, chance *c, const paper *p, bool held_out) {
    int which = chance_below(c, 3);
    int i = which == 0 ? chance_below(c, p->n) : extreme_bar(p, which == 1 ? 1 : -1);
    facts f = {.one = {.col = p->bar[i], .count = 1}, .number = p->value[i]};
    ask_field(r, which == 0 ? &BAR : which == 1 ? &HIGHEST : &LOWEST, &f, held_out);
    if (which == 0)
        expect_digits(r, f.number);
    else
        record_expect_colour(r, p->bar[i]);
    r->guess = which == 0 ? 1.0 / 9 : 1.0 / 6;
}

static void see_paper(record *r, const paper *p) {
    ty_buf *b = &r->seen;
    switch (p->what) {
    case PAPER_RECEIPT:
        ty_buf_puts(b, "a receipt: ");
        for (int i = 0; i < p->n; i++) ty_buf_printf(b, "%s %d, ", p->label[i], p->value[i]);
        ty_buf_printf(b, "total %d", p->total);
        break;
    case PAPER_BADGE: ty_buf_printf(b, "a badge: %s, room %d", p->person, p->number); break;
    case PAPER_TICKET:
        ty_buf_printf(b, "a ticket: day %d, time %d:00, seat %d", p->day, p->hour, p->number);
        break;
    default:
        ty_buf_puts(b, "a chart: ");
        for (int i = 0; i < p->n; i++)
            ty_buf_printf(b, "%s%s %d", i ? ", " : "", lexicon_shade(p->bar[i])->en, p->value[i]);
        break;
    }
}

static ty_status document(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static void (*const ASK[PAPER_COUNT])(record *, chance *, const paper *,
                                          bool) = {[PAPER_RECEIPT] = ask_receipt,
                                                   [PAPER_BADGE] = ask_badge,
                                                   [PAPER_TICKET] = ask_ticket,
                                                   [PAPER_CHART] = ask_chart};
    paper p;
    paper_make(&p, c, (paper_kind)chance_below(c, PAPER_COUNT));
    see_paper(r, &p);
    ASK[p.what](r, c, &p, o->held_out);
    return add_paper(r, &p, o, err);
}

static ty_status compare(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static wordings Q = {
        [LANG_EN] = {"What is different in the second picture?", "What has changed?",
                     "Compare the two pictures.", "Name the difference between the two pictures."},
        [LANG_ZH] = {"第二张图有什么不同？", "什么变了？", "比较这两张图。", "说出两张图的区别。"},
        [LANG_JA] = {"二枚目の画像は何が違いますか。", "何が変わりましたか。",
                     "二つの画像を比べてください。", "二枚の画像の違いを教えてください。"},
        [LANG_DE] = {"Was ist im zweiten Bild anders?", "Was hat sich geändert?",
                     "Vergleiche die zwei Bilder.",
                     "Nenne den Unterschied zwischen den zwei Bildern."},
    };
    static const char *const A[CHANGE_COUNT_OF][LANG_COUNT] = {
        [CHANGE_COLOUR] = {"{The} {is} {colour2}, not {colour}.",
                           "{k}是{colour2}的，不是{colour}的。",
                           "{k}は{colour}ではなく{colour2}です。",
                           "{The} {is} {colour2}, nicht {colour}."},
        [CHANGE_COUNT] = {"There {is2} {nk2}, not {n}.", "有{nk2}，不是{n}{m}。",
                          "{nk}ではなく{nk2}です。", "Es {is2} {nk2}, nicht {n}."},
        [CHANGE_KIND] = {"First {nk}, then {nk2}.", "先是{nk}，后来是{nk2}。",
                         "最初は{nk}、次は{nk2}です。", "Erst {nk}, dann {nk2}."},
        [CHANGE_NOTHING] = {"Nothing is different.", "没有不同。", "違いはありません。",
                            "Nichts ist anders."},
    };
    static const char *const NOTHING[LANG_COUNT] = {"nothing", "没有", "ありません", "nichts"};
    scene a, b;
    int g;
    change what = (change)chance_below(c, CHANGE_COUNT_OF);
    scene_make(&a, c, chance_between(c, 1, 2), 4);
    scene_change(&a, &b, c, what, &g);
    facts f = about(&a, g);
    f.two = b.group[g];
    see(r, &a);
    see(r, &b);
    record_turn(r, pick(Q, r->lang, c, o), A[what][r->lang], &f);
    if (what == CHANGE_COLOUR) record_expect_colour(r, f.two.col);
    if (what == CHANGE_COUNT) record_expect_number(r, f.two.count);
    if (what == CHANGE_KIND) record_expect_kind(r, f.two.what);
    if (what == CHANGE_NOTHING) record_expect(r, NOTHING[r->lang]);
    r->guess = 0.25 * (1.0 / COLOUR_COUNT + 1.0 / OWLET_COUNT_MAX + 1.0 / KIND_COUNT + 1);
    ty_status st = add_scene(r, &a, o, err);
    return st == TY_OK ? add_scene(r, &b, o, err) : st;
}

static ty_status follow(record *r, chance *c, const quiz_options *o, ty_err *err) {
    static const char *const Q_PLACE[LANG_COUNT] = {"What is {place}?", "{place}是什么？",
                                                    "{place}は何ですか。", "Was ist {place}?"};
    static const char *const A_PLACE[LANG_COUNT] = {"It is {nk}.", "是{nk}。", "{k}です。",
                                                    "Es ist {nk}."};
    static wordings Q_COLOUR = {
        [LANG_EN] = {"What colour is it?", "And its colour?", "Which colour does it have?",
                     "Tell me its colour."},
        [LANG_ZH] = {"它是什么颜色的？", "它的颜色呢？", "颜色是什么？", "告诉我它的颜色。"},
        [LANG_JA] = {"それは何色ですか。", "その色は何ですか。", "色は何ですか。",
                     "その色を教えてください。"},
        [LANG_DE] = {"Welche Farbe hat das?", "Und die Farbe?", "Welche Farbe ist das?",
                     "Nenne mir die Farbe davon."},
    };
    static const char *const A_COLOUR[LANG_COUNT] = {"It is {colour}.", "它是{colour}的。",
                                                     "{colour}です。", "Das ist {colour}."};
    static const char *const Q_WHICH[LANG_COUNT] = {
        "Which object is {colour}?", "哪个东西是{colour}的？", "{ofcolour}ものは何ですか。",
        "Welches Ding ist {colour}?"};
    static wordings Q_WHERE = {
        [LANG_EN] = {"Where is it?", "And where is it?", "On which side is it?",
                     "Tell me where it is."},
        [LANG_ZH] = {"它在哪里？", "那它在哪里？", "它在哪边？", "告诉我它的位置。"},
        [LANG_JA] = {"それはどこですか。", "では、どこですか。", "どの位置ですか。",
                     "その場所を教えてください。"},
        [LANG_DE] = {"Wo ist das?", "Und wo ist das?", "Auf welcher Seite ist das?",
                     "Sag mir, wo das ist."},
    };
    static const char *const A_WHERE[LANG_COUNT] = {"It is {place}.", "它在{place}。",
                                                    "{place}です。", "Das ist {place}."};
    scene s;
    scene_make_places(&s, c, chance_between(c, 2, 3));
    int g = chance_below(c, s.n_group);
    facts f = about(&s, g);
    f.where = scene_place(&s.object[g]);
    see(r, &s);
    if (chance_is(c, 0.5)) {
        record_turn(r, Q_PLACE[r->lang], A_PLACE[r->lang], &f);
        record_turn(r, pick(Q_COLOUR, r->lang, c, o), A_COLOUR[r->lang], &f);
        record_expect_colour(r, f.one.col);
        r->guess = 1.0 / COLOUR_COUNT;
    } else {
        record_turn(r, Q_WHICH[r->lang], A_PLACE[r->lang], &f);
        record_turn(r, pick(Q_WHERE, r->lang, c, o), A_WHERE[r->lang], &f);
        expect_place(r, f.where);
        r->guess = 1.0 / PLACE_COUNT;
    }
    return add_scene(r, &s, o, err);
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
