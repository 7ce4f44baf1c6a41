/* ask_paper.c - the fields of each kind of paper, and the questions about them. */
#include "training/owlet/ask_paper.h"

#include "training/owlet/ask.h"

#include <stdio.h>

/* A question about one field of a paper, and its answer. */
typedef struct {
    wording q;
    const char *a[LANG_COUNT];
} field;

static const field TOTAL = {
    {.held_out = 0,
     .about = {"the total", "总价", "合計", "die Summe"},
     .direct =
         {
             [LANG_EN] = {"How much is it in total?", "How much is the total?",
                          "What do all things cost together?", "Read the total.",
                          "How much is everything together?"},
             [LANG_ZH] = {"合计是多少？", "总共多少？", "总共多少钱？", "一共多少钱？",
                          "读一读总价。", "全部合计多少？"},
             [LANG_JA] = {"全部でいくらですか。", "合計はいくらですか。", "合計は何円ですか。",
                          "全部の合計は？", "合計を読んでください。", "合計を教えてください。"},
             [LANG_DE] = {"Wie viel kostet alles zusammen?", "Wie hoch ist die Summe?",
                          "Was kostet alles?", "Lies die Summe.", "Wie viel ist es zusammen?"},
         }},
    {"The total is {number}.", "总共是{number}。", "合計は{number}です。",
     "Die Summe ist {number}."}};
static const field PRICE = {
    {.held_out = 1,
     .about = {"the price of {word}", "{word}的价格", "{word}の値段", "der Preis von {word}"},
     .direct =
         {
             [LANG_EN] = {"Tell me what {word} costs.", "What does {word} cost?",
                          "How much is {word}?", "What is the price of {word}?",
                          "{word}: what does it cost?", "Give the price of {word}."},
             [LANG_ZH] = {"{word}多少钱？", "{word}的价格是多少？", "{word}要多少钱？",
                          "{word}的价格？", "说出{word}多少钱。"},
             [LANG_JA] = {"{word}はいくらですか。", "{word}の値段はいくらですか。",
                          "{word}は何円ですか。", "{word}の値段は？",
                          "{word}がいくらか教えてください。"},
             [LANG_DE] = {"Sag mir, was {word} kostet.", "Was kostet {word}?",
                          "Wie viel kostet {word}?", "Was ist der Preis von {word}?",
                          "{word}: was kostet das?", "Nenne den Preis von {word}."},
         }},
    {"{word} costs {number}.", "{word}的价格是{number}。", "{word}は{number}です。",
     "{word} kostet {number}."}};
static const field NAME = {
    {.held_out = 2,
     .about = {"the name on the badge", "胸牌上的名字", "名札の名前", "der Name auf dem Schild"},
     .direct =
         {
             [LANG_EN] = {"What is the name on the badge?", "Which name is on the badge?",
                          "Whose badge is it?", "Read the name.", "What is the name?",
                          "Which name do you see?"},
             [LANG_ZH] = {"胸牌上写的名字是什么？", "胸牌上的名字是什么？", "这是谁的胸牌？",
                          "读一读名字。", "名字是什么？", "胸牌上写着谁的名字？"},
             [LANG_JA] = {"名札に書いてある名前は何ですか。", "名札の名前は何ですか。",
                          "誰の名札ですか。", "名前を読んでください。", "名前は何ですか。",
                          "名札には誰の名前が書いてありますか。"},
             [LANG_DE] = {"Was ist der Name auf dem Schild?", "Welcher Name steht auf dem Schild?",
                          "Wessen Schild ist es?", "Lies den Namen.", "Was ist der Name?",
                          "Welchen Namen siehst du?"},
         }},
    {"The name is {word}.", "名字是{word}。", "名前は{word}です。", "Der Name ist {word}."}};
static const field ROOM = {
    {.held_out = 3,
     .about = {"the room number", "房间号", "部屋の番号", "die Nummer des Raums"},
     .direct =
         {
             [LANG_EN] = {"What is the number of the room?", "Which room is it?",
                          "What room is it?", "Read the room number.",
                          "Which room is on the badge?", "Tell me the room."},
             [LANG_ZH] = {"房间号码是多少？", "是哪个房间？", "房间号是多少？", "读一读房间号。",
                          "是几号房间？", "胸牌上的房间是几号？"},
             [LANG_JA] = {"部屋の番号は何ですか。", "部屋は何番ですか。", "何番の部屋ですか。",
                          "部屋の番号を読んでください。", "名札の部屋は何番ですか。",
                          "部屋を教えてください。"},
             [LANG_DE] = {"Was ist die Nummer des Raums?", "Welcher Raum ist es?",
                          "Welcher Raum steht auf dem Schild?", "Lies den Raum.",
                          "Welche Nummer hat der Raum?", "Nenne den Raum."},
         }},
    {"It is room {number}.", "是{number}号房间。", "{number}番です。", "Es ist Raum {number}."}};
static const field DAY = {
    {.held_out = 4,
     .about = {"the day on the ticket", "票上的日期", "切符の日", "der Tag auf der Karte"},
     .direct =
         {
             [LANG_EN] = {"For what day is the ticket?", "Which day is the ticket for?",
                          "What day is on the ticket?", "Read the day.", "Which day is it?",
                          "Tell me the day."},
             [LANG_ZH] = {"这张票是几号的？", "票是哪一天的？", "票上是哪一天？", "读一读日期。",
                          "是哪一天？", "票上的日期是几号？"},
             [LANG_JA] = {"切符は何日ですか。", "何日の切符ですか。", "切符の日は何日ですか。",
                          "日を読んでください。", "何日ですか。", "日を教えてください。"},
             [LANG_DE] = {"Für wann ist die Karte?", "Für welchen Tag ist die Karte?",
                          "Welcher Tag steht auf der Karte?", "Lies den Tag.",
                          "Welcher Tag ist es?", "Nenne den Tag."},
         }},
    {"It is for day {number}.", "是{number}号。", "{number}日です。", "Für Tag {number}."}};
static const field HOUR = {
    {.held_out = 5,
     .about = {"the time on the ticket", "票上的时间", "切符の時間", "die Uhrzeit auf der Karte"},
     .direct =
         {
             [LANG_EN] = {"When does it start?", "At what time does it start?",
                          "What time does it start?", "Read the time.",
                          "At which hour does it start?", "When is the start?"},
             [LANG_ZH] = {"什么时候开始？", "几点开始？", "开始的时间是几点？", "读一读时间。",
                          "是几点的票？", "票上是几点？"},
             [LANG_JA] = {"いつ始まりますか。", "何時に始まりますか。", "始まりは何時ですか。",
                          "時間を読んでください。", "何時の切符ですか。", "何時からですか。"},
             [LANG_DE] = {"Wann fängt es an?", "Um wie viel Uhr beginnt es?", "Wann beginnt es?",
                          "Lies die Uhrzeit.", "Um wie viel Uhr fängt es an?",
                          "Welche Uhrzeit steht dort?"},
         }},
    {"It starts at {number}.", "{number}点开始。", "{number}時です。", "Um {number} Uhr."}};
static const field SEAT = {
    {.held_out = 6,
     .about = {"the seat number", "座位号", "座席の番号", "die Nummer des Platzes"},
     .direct =
         {
             [LANG_EN] = {"What is the number of the seat?", "Which seat is it?",
                          "What seat is it?", "Read the seat number.",
                          "Which seat is on the ticket?", "Tell me the seat."},
             [LANG_ZH] = {"座位号码是多少？", "座位是几号？", "座位号是多少？", "读一读座位号。",
                          "是几号座位？", "票上的座位是几号？"},
             [LANG_JA] = {"座席の番号は何ですか。", "座席は何番ですか。", "何番の座席ですか。",
                          "座席の番号を読んでください。", "切符の座席は何番ですか。",
                          "座席を教えてください。"},
             [LANG_DE] = {"Was ist die Nummer des Platzes?", "Welcher Platz ist es?",
                          "Welcher Platz steht auf der Karte?", "Lies den Platz.",
                          "Welche Nummer hat der Platz?", "Nenne den Platz."},
         }},
    {"It is seat {number}.", "是{number}号座位。", "座席は{number}番です。",
     "Es ist Platz {number}."}};
static const field BAR = {
    {.held_out = 7,
     .about = {"the height of the {colour} bar", "{colour}的柱子的高度", "{ofcolour}棒の高さ",
               "die Höhe des Balkens in {colour}"},
     .direct =
         {
             [LANG_EN] = {"What is the height of the {colour} bar?",
                          "How high is the {colour} bar?", "What number has the {colour} bar?",
                          "The {colour} bar: how high?", "Give the height of the {colour} bar.",
                          "How tall is the {colour} bar?"},
             [LANG_ZH] = {"{colour}的柱子高度是多少？", "{colour}的柱子有多高？",
                          "{colour}的柱子是多少？", "{colour}的柱子多高？",
                          "说出{colour}的柱子的高度。", "{colour}的柱子的数是几？"},
             [LANG_JA] = {"{ofcolour}棒はどのくらいの高さですか。",
                          "{ofcolour}棒の高さはいくつですか。", "{ofcolour}棒はいくつですか。",
                          "{ofcolour}棒の高さは？", "{ofcolour}棒の高さを教えてください。",
                          "{ofcolour}棒の数はいくつですか。"},
             [LANG_DE] = {"Was ist die Höhe des Balkens in {colour}?",
                          "Wie hoch ist der Balken in {colour}?",
                          "Welche Zahl hat der Balken in {colour}?",
                          "Der Balken in {colour}: wie hoch?",
                          "Nenne die Höhe: Balken in {colour}.",
                          "Wie groß ist der Balken in {colour}?"},
         }},
    {"The {colour} bar is {number}.", "{colour}的柱子是{number}。", "{ofcolour}棒は{number}です。",
     "Der Balken in {colour} ist {number}."}};
static const field HIGHEST = {
    {.held_out = 0,
     .about = {"the highest bar", "最高的柱子", "一番高い棒", "der höchste Balken"},
     .direct =
         {
             [LANG_EN] = {"Tell me which bar is highest.", "Which bar is the highest?",
                          "What colour is the highest bar?", "Which is the tallest bar?",
                          "Name the highest bar.", "Which bar is highest?"},
             [LANG_ZH] = {"告诉我哪根柱子最高。", "哪根柱子最高？", "最高的柱子是什么颜色的？",
                          "最高的是哪根柱子？", "说出最高的柱子。", "什么颜色的柱子最高？"},
             [LANG_JA] = {"一番高い棒を教えてください。", "一番高い棒は何色ですか。",
                          "一番高い棒はどれですか。", "どの棒が一番高いですか。",
                          "何色の棒が一番高いですか。", "最も高い棒は何色ですか。"},
             [LANG_DE] = {"Sag mir, welcher Balken am höchsten ist.",
                          "Welcher Balken ist der höchste?", "Welche Farbe hat der höchste Balken?",
                          "Welcher ist der höchste Balken?", "Nenne den höchsten Balken.",
                          "Welcher Balken ist am höchsten?"},
         }},
    {"The {colour} bar is the highest.", "{colour}的柱子最高。", "{colour}です。",
     "Der höchste ist {colour}."}};
static const field LOWEST = {
    {.held_out = 1,
     .about = {"the lowest bar", "最低的柱子", "一番低い棒", "der niedrigste Balken"},
     .direct =
         {
             [LANG_EN] = {"Tell me which bar is lowest.", "Which bar is the lowest?",
                          "What colour is the lowest bar?", "Which is the smallest bar?",
                          "Name the lowest bar.", "Which bar is lowest?"},
             [LANG_ZH] = {"告诉我哪根柱子最低。", "哪根柱子最低？", "最低的柱子是什么颜色的？",
                          "最低的是哪根柱子？", "说出最低的柱子。", "什么颜色的柱子最低？"},
             [LANG_JA] = {"一番低い棒は何色ですか。", "一番低い棒はどれですか。",
                          "どの棒が一番低いですか。", "何色の棒が一番低いですか。",
                          "最も低い棒は何色ですか。"},
             [LANG_DE] = {"Sag mir, welcher Balken am niedrigsten ist.",
                          "Welcher Balken ist der niedrigste?",
                          "Welche Farbe hat der niedrigste Balken?",
                          "Welcher ist der niedrigste Balken?", "Nenne den niedrigsten Balken.",
                          "Welcher Balken ist am niedrigsten?"},
         }},
    {"The {colour} bar is the lowest.", "{colour}的柱子最低。", "{colour}です。",
     "Der niedrigste ist {colour}."}};
static const field ALL = {
    {.held_out = 2,
     .about = {"the text on the paper", "纸上的内容", "紙の内容", "der Text auf dem Papier"},
     .direct =
         {
             [LANG_EN] = {"Read what is on the paper.", "Read the paper.",
                          "What is written on the paper?", "Read all of it.",
                          "What does the paper say?"},
             [LANG_ZH] = {"读一读纸上的内容。", "读一读这张纸。", "纸上写着什么？", "全部读出来。",
                          "这张纸上有什么？"},
             [LANG_JA] = {"紙に書いてあることを読んでください。", "紙を読んでください。",
                          "紙に何と書いてありますか。", "全部読んでください。",
                          "紙には何がありますか。"},
             [LANG_DE] = {"Lies, was auf dem Papier steht.", "Lies das Papier.",
                          "Was steht auf dem Papier?", "Lies alles.",
                          "Was ist auf dem Papier zu lesen?"},
         }},
    {"{word}.", "{word}。", "{word}。", "{word}."}};

static void ask_field(record *r, chance *c, const field *t, const facts *f, bool held_out) {
    ask_turn(r, c, held_out, &t->q, t->a[r->lang], f);
}

static void expect_digits(record *r, int n) {
    char digits[16];
    snprintf(digits, sizeof digits, "%d", n);
    record_expect(r, digits);
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
    int bar = i < p->n ? i : paper_bar(p, i == p->n ? 1 : -1);
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
    if (b.failed != TY_OK) r->answer[r->n_turn - 1].failed = b.failed;
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
    chance_order(c, order, n);
    for (int i = 0; i < n && i < turns; i++) {
        if (order[i] == n - 1)
            read_all(r, c, p);
        else
            ask_at(r, c, p, order[i], false);
    }
}
