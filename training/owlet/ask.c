/* ask.c - the questions about a scene, in four languages. */
#include "training/owlet/ask.h"

#include <string.h>

const char *ask_pick(ask_wordings w, language l, chance *c, bool held_out) {
    return w[l][held_out ? ASK_WORDINGS - 1 : chance_below(c, ASK_WORDINGS - 1)];
}

facts ask_facts(const scene *s, int g) {
    return (facts){.one = s->group[g], .list = s->group, .n_list = s->n_group};
}

static void describe(record *r, chance *c, const scene *s, bool held_out) {
    static ask_wordings Q = {
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
    facts f = ask_facts(s, 0);
    record_turn(r, ask_pick(Q, r->lang, c, held_out), A[r->lang], &f);
    for (int i = 0; i < s->n_group; i++) {
        record_expect_number(r, s->group[i].count);
        record_expect_colour(r, s->group[i].col);
        record_expect_kind(r, s->group[i].what);
    }
    r->guess = 0.001;
}

static void count(record *r, chance *c, const facts *f, bool held_out) {
    static ask_wordings Q = {
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
    record_turn(r, ask_pick(Q, r->lang, c, held_out), A[r->lang], f);
    record_expect_number(r, f->one.count);
    r->guess = 1.0 / OWLET_COUNT_MAX;
}

static void colour_of(record *r, chance *c, const facts *f, bool held_out) {
    static ask_wordings Q = {
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
    record_turn(r, ask_pick(Q, r->lang, c, held_out), A[r->lang], f);
    record_expect_colour(r, f->one.col);
    r->guess = 1.0 / COLOUR_COUNT;
}

static void expect_place(record *r, place p) {
    record_expect(r, lexicon_place(p, r->lang));
    r->guess = 1.0 / PLACE_COUNT;
}

static void where(record *r, chance *c, const facts *f, bool held_out) {
    static ask_wordings Q = {
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
    record_turn(r, ask_pick(Q, r->lang, c, held_out), A[r->lang], f);
    expect_place(r, f->where);
}

static void what_there(record *r, chance *c, const facts *f, bool held_out) {
    static ask_wordings Q = {
        [LANG_EN] = {"What is {place}?", "Which object is {place}?", "Name the thing {place}.",
                     "What do you see {place}?"},
        [LANG_ZH] = {"{place}是什么？", "{place}有什么？", "说出{place}的东西。",
                     "你在{place}看到什么？"},
        [LANG_JA] = {"{place}は何ですか。", "{place}にあるものは何ですか。",
                     "{place}のものを教えてください。", "{place}に何が見えますか。"},
        [LANG_DE] = {"Was ist {place}?", "Welches Ding ist {place}?", "Nenne das Ding {place}.",
                     "Was siehst du {place}?"},
    };
    static const char *const A[LANG_COUNT] = {"It is {ck}.", "是{ck}。", "{ck}です。",
                                              "Es ist {ck}."};
    record_turn(r, ask_pick(Q, r->lang, c, held_out), A[r->lang], f);
    record_expect_kind(r, f->one.what);
    r->guess = 1.0 / KIND_COUNT;
}

/* The answer that both first questions of a follow-up share: "It is a cat." */
static const char *const IT_IS[LANG_COUNT] = {"It is {nk}.", "是{nk}。", "{k}です。",
                                              "Es ist {nk}."};

static void follow_colour(record *r, chance *c, const facts *f, bool held_out) {
    static const char *const Q_PLACE[LANG_COUNT] = {"What is {place}?", "{place}是什么？",
                                                    "{place}は何ですか。", "Was ist {place}?"};
    static ask_wordings Q_COLOUR = {
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
    record_turn(r, Q_PLACE[r->lang], IT_IS[r->lang], f);
    record_turn(r, ask_pick(Q_COLOUR, r->lang, c, held_out), A_COLOUR[r->lang], f);
    record_expect_colour(r, f->one.col);
    r->guess = 1.0 / COLOUR_COUNT;
}

static void follow_where(record *r, chance *c, const facts *f, bool held_out) {
    static const char *const Q_WHICH[LANG_COUNT] = {
        "Which object is {colour}?", "哪个东西是{colour}的？", "{ofcolour}ものは何ですか。",
        "Welches Ding ist {colour}?"};
    static ask_wordings Q_WHERE = {
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
    record_turn(r, Q_WHICH[r->lang], IT_IS[r->lang], f);
    record_turn(r, ask_pick(Q_WHERE, r->lang, c, held_out), A_WHERE[r->lang], f);
    expect_place(r, f->where);
}

static void read_sign(record *r, chance *c, const scene *s, bool held_out) {
    static ask_wordings Q = {
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
    facts f = {.word = s->sign};
    record_turn(r, ask_pick(Q, r->lang, c, held_out), A[r->lang], &f);
    record_expect(r, s->sign);
    r->guess = 0.7 / lexicon_sign_count();
}

static void spell(record *r, chance *c, const scene *s, bool held_out) {
    static ask_wordings Q = {
        [LANG_EN] = {"Spell it.", "Spell the sign.", "Spell what is written.",
                     "Spell the text on the sign."},
        [LANG_ZH] = {"请拼出来。", "拼出牌子上的字。", "拼出上面写的。", "请拼出牌子上的文字。"},
        [LANG_JA] = {"一文字ずつ読んでください。", "看板を一文字ずつ読んでください。",
                     "一文字ずつお願いします。", "看板の文字を一文字ずつ読んでください。"},
        [LANG_DE] = {"Buchstabiere es.", "Buchstabiere das Schild.",
                     "Buchstabiere, was dort steht.", "Buchstabiere den Text auf dem Schild."},
    };
    char letters[2 * SCENE_TEXT];
    size_t n = 0;
    for (const char *p = s->sign; *p; p++) {
        if (n) letters[n++] = ' ';
        letters[n++] = *p;
    }
    letters[n] = '\0';
    facts f = {.word = letters};
    record_turn(r, ask_pick(Q, r->lang, c, held_out), "{word}", &f);
    record_expect(r, letters);
    r->guess = 0.7 / lexicon_sign_count();
}

/* Where the one object of group g is, or PLACE_COUNT. */
static place group_place(const scene *s, int g) {
    if (s->group[g].count != 1) return PLACE_COUNT;
    for (int i = 0; i < s->n_object; i++)
        if (s->object[i].group == g) return scene_place(&s->object[i]);
    return PLACE_COUNT;
}

/* Every object is clearly somewhere, and nowhere are two. */
static bool all_apart(const scene *s) {
    bool taken[PLACE_COUNT] = {false};
    for (int i = 0; i < s->n_object; i++) {
        place p = scene_place(&s->object[i]);
        if (p == PLACE_COUNT || taken[p]) return false;
        taken[p] = true;
    }
    return true;
}

bool ask_fits(const scene *s, ask_what what, int g) {
    switch (what) {
    case ASK_DESCRIBE: return g == 0 && s->n_group > 0 && !s->sign[0];
    case ASK_COUNT:
    case ASK_COLOUR: return g < s->n_group;
    case ASK_WHERE:
    case ASK_FOLLOW_WHERE: return g < s->n_group && group_place(s, g) != PLACE_COUNT;
    case ASK_WHAT_THERE:
    case ASK_FOLLOW_COLOUR: return g < s->n_group && !s->sign[0] && all_apart(s);
    case ASK_READ:
    case ASK_SPELL: return g == 0 && s->sign[0];
    default: return false;
    }
}

int ask_turns(ask_what what) {
    return what == ASK_FOLLOW_COLOUR || what == ASK_FOLLOW_WHERE ? 2 : 1;
}

void ask(record *r, chance *c, const scene *s, ask_what what, int g, bool held_out) {
    facts f = ask_facts(s, g);
    if (g < s->n_group) f.where = group_place(s, g);
    switch (what) {
    case ASK_DESCRIBE: describe(r, c, s, held_out); break;
    case ASK_COUNT: count(r, c, &f, held_out); break;
    case ASK_COLOUR: colour_of(r, c, &f, held_out); break;
    case ASK_WHERE: where(r, c, &f, held_out); break;
    case ASK_WHAT_THERE: what_there(r, c, &f, held_out); break;
    case ASK_FOLLOW_COLOUR: follow_colour(r, c, &f, held_out); break;
    case ASK_FOLLOW_WHERE: follow_where(r, c, &f, held_out); break;
    case ASK_READ: read_sign(r, c, s, held_out); break;
    case ASK_SPELL: spell(r, c, s, held_out); break;
    default: break;
    }
}
