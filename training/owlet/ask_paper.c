/* ask_paper.c - the fields of each kind of paper, and the questions about them. */
#include "training/owlet/ask_paper.h"

#include <stdio.h>

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

static const field ALL = {
    {"Read the paper.", "读一读这张纸。", "紙を読んでください。", "Lies das Papier."},
    {"{word}.", "{word}。", "{word}。", "{word}."}};

static void ask_field(record *r, chance *c, const field *t, const facts *f, bool held_out) {
    static const char *const LOOK[LANG_COUNT] = {"Look at the picture. ", "请看图。",
                                                 "画像を見てください。", "Sieh das Bild an. "};
    record_turn_opened(r, c, held_out ? LOOK[r->lang] : NULL, t->q[r->lang], t->a[r->lang], f);
}

static void expect_digits(record *r, int n) {
    char digits[16];
    snprintf(digits, sizeof digits, "%d", n);
    record_expect(r, digits);
}

static int extreme_bar(const paper *p, int sign) {
    int best = 0;
    for (int i = 1; i < p->n; i++)
        if (sign * p->value[i] > sign * p->value[best]) best = i;
    return best;
}

/* Fields are numbered: the first `n` of a receipt its prices, then its total; and so on. */
static int field_count(const paper *p) {
    switch (p->what) {
    case PAPER_RECEIPT: return p->n + 1;
    case PAPER_BADGE: return 2;
    case PAPER_TICKET: return 3;
    default: return p->n + 2;
    }
}

static void ask_receipt(record *r, chance *c, const paper *p, int i, bool held_out) {
    bool total = i == p->n;
    facts f = {.word = total ? "" : p->label[i], .number = total ? p->total : p->value[i]};
    ask_field(r, c, total ? &TOTAL : &PRICE, &f, held_out);
    expect_digits(r, f.number);
    r->guess = total ? 0.06 : 1.0 / 9;
}

static void ask_badge(record *r, chance *c, const paper *p, int i, bool held_out) {
    facts f = {.word = p->person, .number = p->number};
    ask_field(r, c, i == 0 ? &NAME : &ROOM, &f, held_out);
    if (i == 0)
        record_expect(r, p->person);
    else
        expect_digits(r, p->number);
    r->guess = i == 0 ? 1.0 / lexicon_person_count() : 0.01;
}

static void ask_ticket(record *r, chance *c, const paper *p, int i, bool held_out) {
    const field *const FIELD[] = {&DAY, &HOUR, &SEAT};
    const int value[] = {p->day, p->hour, p->number};
    facts f = {.number = value[i]};
    ask_field(r, c, FIELD[i], &f, held_out);
    expect_digits(r, f.number);
    r->guess = i == 0 ? 1.0 / 28 : i == 1 ? 1.0 / 12 : 0.01;
}

static void ask_chart(record *r, chance *c, const paper *p, int i, bool held_out) {
    int bar = i < p->n ? i : extreme_bar(p, i == p->n ? 1 : -1);
    facts f = {.one = {.col = p->bar[bar], .count = 1}, .number = p->value[bar]};
    ask_field(r, c, i < p->n ? &BAR : i == p->n ? &HIGHEST : &LOWEST, &f, held_out);
    if (i < p->n)
        expect_digits(r, f.number);
    else
        record_expect_colour(r, p->bar[bar]);
    r->guess = i < p->n ? 1.0 / 9 : 1.0 / 6;
}

static void ask_at(record *r, chance *c, const paper *p, int i, bool held_out) {
    switch (p->what) {
    case PAPER_RECEIPT: ask_receipt(r, c, p, i, held_out); break;
    case PAPER_BADGE: ask_badge(r, c, p, i, held_out); break;
    case PAPER_TICKET: ask_ticket(r, c, p, i, held_out); break;
    default: ask_chart(r, c, p, i, held_out); break;
    }
}

static void read_all(record *r, chance *c, const paper *p) {
    ty_buf b = ty_buf_make(1024);
    if (p->what == PAPER_CHART) {
        for (int i = 0; i < p->n; i++) {
            facts f = {.one = {.col = p->bar[i], .count = 1}, .number = p->value[i]};
            say(&b, r->lang, i ? ", {colour} {number}" : "{colour} {number}", &f);
        }
    } else {
        paper_words(p, &b);
    }
    facts f = {.word = b.len ? b.data : ""};
    ask_field(r, c, &ALL, &f, false);
    record_expect(r, f.word);
    r->guess = 0;
    ty_buf_clear(&b);
}

void ask_paper(record *r, chance *c, const paper *p, bool held_out) {
    int n = field_count(p), i = chance_below(c, n);
    /* What is asked of all papers alike comes as often as the many prices and bars together. */
    if (p->what == PAPER_RECEIPT && chance_is(c, 0.3)) i = p->n;
    if (p->what == PAPER_CHART && chance_is(c, 0.4)) i = p->n + chance_below(c, 2);
    ask_at(r, c, p, i, held_out);
}

void ask_paper_all(record *r, chance *c, const paper *p, int turns) {
    enum { FIELDS_MAX = PAPER_LINES_MAX + 3 };
    int order[FIELDS_MAX], n = field_count(p) + 1; /* the last: all of it */
    for (int i = 0; i < n; i++) order[i] = i;
    chance_shuffle(c, order, n);
    for (int i = 0; i < n && i < turns; i++) {
        if (order[i] == n - 1)
            read_all(r, c, p);
        else
            ask_at(r, c, p, order[i], false);
    }
}
