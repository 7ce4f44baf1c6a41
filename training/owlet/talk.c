/* talk.c - the text-only instructions.  The exam's wording has a "please" that training never had. */
#include "training/owlet/talk.h"

#include <stdio.h>
#include <string.h>

typedef const char *const by_language[LANG_COUNT];

static void turn(record *r, chance *c, bool held_out, const char *question, const char *answer,
                 const facts *f) {
    static by_language PLEASE = {"Please answer: ", "请回答：", "答えてください：",
                                 "Bitte antworte: "};
    record_turn_opened(r, c, held_out ? PLEASE[r->lang] : NULL, question, answer, f);
}

static void sum(record *r, chance *c, bool held_out) {
    int a = chance_between(c, 1, 9), b = chance_between(c, 1, 9);
    bool minus = chance_is(c, 0.4);
    int x = minus ? a + b : a, result = minus ? a : a + b;
    static by_language Q = {"What is {word}?", "{word}等于多少？", "{word}はいくつですか。",
                            "Wie viel ist {word}?"};
    static by_language A = {"{word} is {number}.", "{word}等于{number}。", "{word}は{number}です。",
                            "{word} ist {number}."};
    char text[32];
    snprintf(text, sizeof text, "%d %s %d", x, minus ? "-" : "+", b);
    facts f = {.word = text, .number = result};
    turn(r, c, held_out, Q[r->lang], A[r->lang], &f);
    char digits[16];
    snprintf(digits, sizeof digits, "%d", result);
    record_expect(r, digits);
    r->guess = 1.0 / 18;
}

static void larger(record *r, chance *c, bool held_out) {
    int a = chance_between(c, 1, 99), b = chance_between(c, 1, 98);
    if (b >= a) b++;
    static by_language Q = {"Which number is larger: {word}?", "哪个数更大：{word}？",
                            "どちらが大きいですか：{word}。", "Welche Zahl ist größer: {word}?"};
    static by_language A = {"{number} is larger.", "{number}更大。", "{number}の方が大きいです。",
                            "{number} ist größer."};
    char text[32], digits[16];
    snprintf(text, sizeof text, "%d, %d", a, b);
    facts f = {.word = text, .number = a > b ? a : b};
    turn(r, c, held_out, Q[r->lang], A[r->lang], &f);
    snprintf(digits, sizeof digits, "%d", f.number);
    record_expect(r, digits);
    r->guess = 0.5;
}

static void opposite(record *r, chance *c, bool held_out) {
    static const char *const PAIR[][2][LANG_COUNT] = {
        {{"big", "大", "大きい", "groß"}, {"small", "小", "小さい", "klein"}},
        {{"hot", "热", "暑い", "heiß"}, {"cold", "冷", "寒い", "kalt"}},
        {{"old", "旧", "古い", "alt"}, {"new", "新", "新しい", "neu"}},
        {{"long", "长", "長い", "lang"}, {"short", "短", "短い", "kurz"}},
        {{"light", "亮", "明るい", "hell"}, {"dark", "暗", "暗い", "dunkel"}},
        {{"fast", "快", "速い", "schnell"}, {"slow", "慢", "遅い", "langsam"}},
        {{"high", "高", "高い", "hoch"}, {"low", "低", "低い", "niedrig"}},
        {{"full", "满", "いっぱい", "voll"}, {"empty", "空", "空っぽ", "leer"}},
        {{"open", "开", "開いた", "offen"}, {"closed", "关", "閉じた", "geschlossen"}},
        {{"day", "白天", "昼", "Tag"}, {"night", "黑夜", "夜", "Nacht"}},
        {{"left", "左", "左", "links"}, {"right", "右", "右", "rechts"}},
        {{"good", "好", "良い", "gut"}, {"bad", "坏", "悪い", "schlecht"}},
    };
    static by_language Q = {"What is the opposite of {word}?", "{word}的反义词是什么？",
                            "{word}の反対は何ですか。", "Was ist das Gegenteil von {word}?"};
    int i = chance_below(c, (int)(sizeof PAIR / sizeof *PAIR)), side = chance_below(c, 2);
    char answer[256];
    const char *want = PAIR[i][!side][r->lang];
    snprintf(answer, sizeof answer,
             r->lang == LANG_EN   ? "The opposite is %s."
             : r->lang == LANG_ZH ? "反义词是%s。"
             : r->lang == LANG_JA ? "反対は%sです。"
                                  : "Das Gegenteil ist %s.",
             want);
    facts f = {.word = PAIR[i][side][r->lang]};
    turn(r, c, held_out, Q[r->lang], answer, &f);
    record_expect(r, want);
    r->guess = 1.0 / 24;
}

static const char *noun_in(kind k, language l) {
    const noun *n = lexicon_noun(k);
    return l == LANG_EN ? n->en : l == LANG_DE ? n->de : l == LANG_ZH ? n->zh : n->ja;
}

static void translate(record *r, chance *c, bool held_out) {
    static const char *const NAME[LANG_COUNT][LANG_COUNT] = {
        /* language named in a language */
        [LANG_EN] = {"English", "Chinese", "Japanese", "German"},
        [LANG_ZH] = {"英语", "中文", "日语", "德语"},
        [LANG_JA] = {"英語", "中国語", "日本語", "ドイツ語"},
        [LANG_DE] = {"Englisch", "Chinesisch", "Japanisch", "Deutsch"},
    };
    kind k = (kind)chance_below(c, KIND_COUNT);
    language to = (language)((r->lang + 1 + chance_below(c, LANG_COUNT - 1)) % LANG_COUNT);
    const char *from = noun_in(k, r->lang), *want = noun_in(k, to), *name = NAME[r->lang][to];
    char q[256], a[256];
    switch (r->lang) {
    case LANG_EN:
        snprintf(q, sizeof q, "What is \"%s\" in %s?", from, name),
            snprintf(a, sizeof a, "In %s it is %s.", name, want);
        break;
    case LANG_ZH:
        snprintf(q, sizeof q, "“%s”用%s怎么说？", from, name),
            snprintf(a, sizeof a, "用%s说是%s。", name, want);
        break;
    case LANG_JA:
        snprintf(q, sizeof q, "「%s」は%sで何ですか。", from, name),
            snprintf(a, sizeof a, "%sで%sです。", name, want);
        break;
    default:
        snprintf(q, sizeof q, "Was heißt „%s“ auf %s?", from, name),
            snprintf(a, sizeof a, "Auf %s heißt es %s.", name, want);
        break;
    }
    facts f = {0};
    turn(r, c, held_out, q, a, &f);
    record_expect(r, want);
    r->guess = 1.0 / KIND_COUNT;
}

static void next_number(record *r, chance *c, bool held_out) {
    static by_language Q = {"Which number comes next: {word}?", "下一个数是什么：{word}？",
                            "次の数は何ですか：{word}。", "Welche Zahl kommt danach: {word}?"};
    static by_language A = {"Next comes {number}.", "下一个是{number}。", "次は{number}です。",
                            "Danach kommt {number}."};
    int step = chance_between(c, 1, 3), a = chance_between(c, 1, 20);
    char text[64], digits[16];
    snprintf(text, sizeof text, "%d, %d, %d", a, a + step, a + 2 * step);
    facts f = {.word = text, .number = a + 3 * step};
    turn(r, c, held_out, Q[r->lang], A[r->lang], &f);
    snprintf(digits, sizeof digits, "%d", f.number);
    record_expect(r, digits);
    r->guess = 0.05;
}

static void repeat(record *r, chance *c, bool held_out) {
    static by_language Q = {"Say \"{word}\" {number} times.", "把“{word}”说{number}遍。",
                            "「{word}」を{number}回言ってください。", "Sag {number} Mal „{word}“."};
    const char *word = noun_in((kind)chance_below(c, KIND_COUNT), r->lang);
    int n = chance_between(c, 2, 4);
    char answer[256] = "";
    for (int i = 0; i < n; i++) {
        strncat(answer, word, sizeof answer - strlen(answer) - 1);
        if (i < n - 1) strncat(answer, " ", sizeof answer - strlen(answer) - 1);
    }
    facts f = {.word = word, .number = n};
    turn(r, c, held_out, Q[r->lang], answer, &f);
    record_expect(r, answer);
    r->guess = 0.01;
}

void talk_make(record *r, chance *c, bool held_out, int turns) {
    static void (*const MAKE[])(record *, chance *, bool) = {sum,       larger,      opposite,
                                                             translate, next_number, repeat};
    do MAKE[chance_below(c, (int)(sizeof MAKE / sizeof *MAKE))](r, c, held_out);
    while (r->n_turn < turns);
}
