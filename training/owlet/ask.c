/* ask.c - the questions about a scene, in four languages. */
#include "training/owlet/ask.h"

#include <stdio.h>
#include <string.h>

/* What asks for a thing that is named, *: "the colour of the boat". */
enum { FRAMES = 24, HELD_FRAMES = 14 }; /* the exam's are among the first HELD_FRAMES */
static const char *const FRAME[LANG_COUNT][FRAMES] = {
    [LANG_EN] =
        {"What is *?",     "Tell me *.",     "Name *.",      "Give me *.", "I want to know *.",
         "Say *.",         "Do you know *?", "Please, *?",   "Find *.",    "Can you tell me *?",
         "Let me know *.", "Answer me: *?",  "I ask for *.", "Show me *.", "*?",
         "And *?",         "*, please.",     "Now *.",       "Then *?",    "Your answer: *?",
         "Question: *?",   "Next: *.",       "*!",           "About *?"},
    [LANG_ZH] = {"*是什么？",   "告诉我*。", "说出*。", "请问*？",       "我想知道*。", "请说*。",
                 "你知道*吗？", "请给出*。", "找出*。", "能告诉我*吗？", "请回答*。",   "我要问*。",
                 "请指出*。",   "说说*。",   "*？",     "还有*？",       "那*呢？",     "现在说*。",
                 "然后*？",     "回答*。",   "问*。",   "接着：*。",     "关于*？",     "*！"},
    [LANG_JA] = {"*は何ですか。",
                 "*を教えてください。",
                 "*を言ってください。",
                 "*を知りたいです。",
                 "*は？",
                 "*をお願いします。",
                 "*が分かりますか。",
                 "*を答えてください。",
                 "*を見つけてください。",
                 "*を教えて。",
                 "*について聞きます。",
                 "*を話してください。",
                 "*を示してください。",
                 "*が知りたい。",
                 "*？",
                 "あと*は？",
                 "では*は？",
                 "今度は*。",
                 "次は*。",
                 "*を答えて。",
                 "*を聞きます。",
                 "*について。",
                 "*をどうぞ。",
                 "*！"},
    [LANG_DE] = {"Was ist *?",
                 "Sag mir: *.",
                 "Wie lautet *?",
                 "Hier ist gefragt: *.",
                 "Ich suche: *.",
                 "Gesucht ist *.",
                 "Weißt du, was * ist?",
                 "Bitte: *?",
                 "Finde heraus: *.",
                 "Kannst du mir sagen, was * ist?",
                 "Antworte mir: *?",
                 "Ich frage: *?",
                 "Zeig mir: *.",
                 "Gefragt wird: *.",
                 "*?",
                 "Und *?",
                 "*, bitte.",
                 "Jetzt *.",
                 "Dann *?",
                 "Deine Antwort: *?",
                 "Frage: *?",
                 "Als Nächstes: *.",
                 "Zu *?",
                 "*!"},
};

/* One way to ask.  Two frames are never joined with this in training, they are the exam's; training takes the
 * others, and the wordings that are no frame. */
static void phrase(char *q, size_t size, const wording *w, language l, chance *c, bool held_out) {
    int n = 0, first = w->about[l] ? 0 : 1;
    while (n < ASK_WORDINGS_MAX && w->direct[l][n]) n++;
    if (w->about[l] && (held_out || chance_is(c, 0.6))) {
        /* held out: the one that w names, and one of the second half, whose sentences no direct wording has */
        int half = HELD_FRAMES / 2, one = w->held_out, i;
        int other = one < half ? one + half : half + (one - half + 1) % half;
        do i = held_out ? (chance_is(c, 0.5) ? one : other) : chance_below(c, FRAMES);
        while (!held_out && (i == one || i == other));
        const char *frame = FRAME[l][i], *gap = strchr(frame, '*');
        snprintf(q, size, "%.*s%s%s", (int)(gap - frame), frame, w->about[l], gap + 1);
    } else {
        snprintf(q, size, "%s", w->direct[l][held_out ? 0 : chance_between(c, first, n - 1)]);
    }
}

void ask_turn(record *r, chance *c, bool held_out, const wording *w, const char *a,
              const facts *f) {
    char q[512];
    phrase(q, sizeof q, w, r->lang, c, held_out);
    if (held_out)
        record_turn(r, q, a, f);
    else
        record_turn_opened(r, c, q, a, f);
}

void ask_turn_text(record *r, chance *c, bool held_out, const wording *w, const ty_buf *a) {
    facts f = {.word = a->len ? a->data : ""};
    ask_turn(r, c, held_out, w, "{word}", &f);
    if (a->failed != TY_OK) r->answer[r->n_turn - 1].failed = a->failed;
}

facts ask_facts(const scene *s, int g) {
    return (facts){.one = s->group[g], .list = s->group, .n_list = s->n_group};
}

static void describe(record *r, chance *c, const scene *s, bool held_out) {
    static const wording Q = {
        .held_out = 0,
        .about = {"the content of the picture", "图片的内容", "画像の内容",
                  "der Inhalt des Bildes"},
        .direct = {
            [LANG_EN] = {"Tell me what the picture shows.", "Describe the picture.",
                         "What is in this picture?", "What can you see?",
                         "What does the picture show?", "Tell me what you see.",
                         "Describe what is in the picture.", "What is in the picture?",
                         "What do you see?", "Describe this picture.", "What is this?"},
            [LANG_ZH] = {"请说说图片的内容。", "描述这张图片。", "图里有什么？", "你看到了什么？",
                         "请说说你看到了什么。", "请描述图片。", "图片里有什么？",
                         "这张图里有什么？", "这是什么？", "请描述这张图片。"},
            [LANG_JA] = {"この画像について話してください。", "画像を説明してください。",
                         "何が写っていますか。", "何が見えますか。", "この画像には何がありますか。",
                         "この画像を説明してください。", "見えるものを話してください。",
                         "これは何ですか。", "画像には何が写っていますか。",
                         "この画像に何が写っていますか。"},
            [LANG_DE] = {"Sag mir, was das Bild zeigt.", "Beschreibe das Bild.",
                         "Was ist auf diesem Bild?", "Was siehst du?", "Was zeigt das Bild?",
                         "Sag mir, was du siehst.", "Was ist auf dem Bild zu sehen?",
                         "Was ist auf dem Bild?", "Was ist das?", "Beschreibe dieses Bild.",
                         "Was ist in dem Bild?"},
        }};
    static const char *const A[LANG_COUNT] = {"The picture shows {list}.", "图里有{list}。",
                                              "{list}が写っています。",
                                              "Zu sehen {listis} {list}."};
    facts f = ask_facts(s, 0);
    ask_turn(r, c, held_out, &Q, A[r->lang], &f);
    for (int i = 0; i < s->n_group; i++) {
        record_expect_number(r, s->group[i].count);
        record_expect_colour(r, s->group[i].col);
        record_expect_kind(r, s->group[i].what);
    }
    r->guess = 0.001;
}

static void count(record *r, chance *c, const facts *f, bool held_out) {
    static const wording Q = {
        .held_out = 1,
        .about = {"the number of {many}", "{k}的数量", "{k}の数", "die Anzahl der {many}"},
        .direct = {
            [LANG_EN] = {"What is the number of {many} in the picture?",
                         "How many {many} are there?", "Count the {many}.",
                         "How many {many} do you see?", "Give the number of {many}.",
                         "How many {many} are in the picture?",
                         "Tell me how many {many} there are.", "The {many}: how many?",
                         "How many {many} can you see?", "How many {many}?"},
            [LANG_ZH] = {"图中{k}的数量是多少？", "有几{m}{k}？", "数一数{k}。", "你看到几{m}{k}？",
                         "图中有多少{m}{k}？", "{k}的数量是几？", "告诉我{k}有几{m}。",
                         "图里有几{m}{k}？", "有多少{m}{k}？"},
            [LANG_JA] = {"{k}はいくつありますか。", "{k}を数えてください。",
                         "{k}はいくつ見えますか。", "{k}の数はいくつですか。",
                         "画像に{k}はいくつありますか。", "{k}がいくつあるか教えてください。",
                         "{k}は何個ありますか。", "{k}はいくつですか。"},
            [LANG_DE] = {"Nenne die Anzahl der {many}.", "Wie viele {many} gibt es?",
                         "Zähle die {many}.", "Wie viele {many} siehst du?",
                         "Wie viele {many} sind auf dem Bild?",
                         "Wie groß ist die Anzahl der {many}?",
                         "Sag mir, wie viele {many} es gibt.", "Wie viele {many} sind zu sehen?",
                         "Wie viele {many}?"},
        }};
    static const char *const A[LANG_COUNT] = {"There {is} {nk}.", "有{nk}。", "{nk}です。",
                                              "Es {is} {nk}."};
    ask_turn(r, c, held_out, &Q, A[r->lang], f);
    record_expect_number(r, f->one.count);
    r->guess = 1.0 / OWLET_COUNT_MAX;
}

static void colour_of(record *r, chance *c, const facts *f, bool held_out) {
    static const wording Q = {
        .held_out = 2,
        .about = {"the colour of {the}", "{k}的颜色", "{k}の色", "die Farbe von {dem}"},
        .direct = {
            [LANG_EN] = {"{The}: what colour?", "What colour {is} {the}?",
                         "Which colour {is} {the}?", "Tell me the colour of {the}.",
                         "What is the colour of {the}?", "{The}: which colour?",
                         "What colour do you see on {the}?", "What color {is} {the}?",
                         "What is the color of {the}?"},
            [LANG_ZH] = {"请问{k}是哪种颜色？", "{k}是什么颜色的？", "{k}的颜色是什么？",
                         "告诉我{k}的颜色。", "请问{k}是什么颜色？", "{k}是哪种颜色的？"},
            [LANG_JA] = {"{k}はどんな色ですか。", "{k}は何色ですか。", "{k}の色は何ですか。",
                         "{k}の色を教えてください。", "{k}の色はどんな色ですか。",
                         "{k}は何色に見えますか。", "{k}の色は何色ですか。"},
            [LANG_DE] = {"{The}: welche Farbe?", "Welche Farbe: {the}?",
                         "In welcher Farbe {is} {the}?", "Nenne die Farbe: {k}.",
                         "{The}: in welcher Farbe?", "Sag mir die Farbe: {the}.",
                         "Welche Farbe siehst du: {the}?"},
        }};
    static const char *const A[LANG_COUNT] = {"{The} {is} {colour}.", "{k}是{colour}的。",
                                              "{k}は{colour}です。", "{The} {is} {colour}."};
    ask_turn(r, c, held_out, &Q, A[r->lang], f);
    record_expect_colour(r, f->one.col);
    r->guess = 1.0 / COLOUR_COUNT;
}

static void expect_place(record *r, place p) {
    record_expect(r, lexicon_place(p, r->lang));
    r->guess = 1.0 / PLACE_COUNT;
}

static void where(record *r, chance *c, const facts *f, bool held_out) {
    static const wording Q = {
        .held_out = 3,
        .about = {"the place of {the}", "{k}的位置", "{k}の場所", "der Ort von {dem}"},
        .direct = {
            [LANG_EN] = {"In what part of the picture is {the}?", "Where is {the}?",
                         "On which side is {the}?", "Tell me where {the} is.",
                         "In which part is {the}?", "Where in the picture is {the}?",
                         "Where do you see {the}?", "{The}: where is it?"},
            [LANG_ZH] = {"{k}位于图片的什么位置？", "{k}在哪里？", "{k}在哪边？",
                         "告诉我{k}的位置。", "{k}在图片的哪里？", "{k}的位置在哪里？",
                         "{k}在什么位置？"},
            [LANG_JA] = {"{k}は画像のどこにありますか。", "{k}はどこですか。",
                         "{k}はどの位置ですか。", "{k}の場所を教えてください。",
                         "{k}はどこにありますか。", "画像のどこに{k}がありますか。",
                         "{k}がどこか教えてください。"},
            [LANG_DE] = {"In welchem Teil des Bildes ist {the}?", "Wo ist {the}?",
                         "Auf welcher Seite ist {the}?", "Sag mir, wo {the} ist.",
                         "Wo auf dem Bild ist {the}?", "In welchem Teil ist {the}?", "{The}: wo?"},
        }};
    static const char *const A[LANG_COUNT] = {"{The} is {place}.", "{k}在{place}。",
                                              "{k}は{place}です。", "{The} ist {place}."};
    ask_turn(r, c, held_out, &Q, A[r->lang], f);
    expect_place(r, f->where);
}

static void what_there(record *r, chance *c, const facts *f, bool held_out) {
    static const wording Q = {
        .held_out = 4,
        .about = {"the object {place}", "{place}的东西", "{place}のもの", "das Ding {place}"},
        .direct = {
            [LANG_EN] = {"What do you see {place}?", "What is {place}?", "Which object is {place}?",
                         "Name the thing {place}.", "What can be seen {place}?",
                         "Which thing do you see {place}?", "Tell me what is {place}."},
            [LANG_ZH] = {"你在{place}看到什么？", "{place}是什么？", "{place}有什么？",
                         "说出{place}的东西。", "{place}能看到什么？", "告诉我{place}是什么。",
                         "你看到{place}有什么？"},
            [LANG_JA] = {"{place}に何が見えますか。", "{place}は何ですか。",
                         "{place}にあるものは何ですか。", "{place}のものを教えてください。",
                         "{place}に何がありますか。", "{place}に見えるものは何ですか。",
                         "{place}には何が写っていますか。"},
            [LANG_DE] = {"Was siehst du {place}?", "Was ist {place}?", "Welches Ding ist {place}?",
                         "Nenne das Ding {place}.", "Was ist {place} zu sehen?",
                         "Welches Ding siehst du {place}?", "Sag mir, was {place} ist."},
        }};
    static const char *const A[LANG_COUNT] = {"It is {ck}.", "是{ck}。", "{ck}です。",
                                              "Es ist {ck}."};
    ask_turn(r, c, held_out, &Q, A[r->lang], f);
    record_expect_kind(r, f->one.what);
    r->guess = 1.0 / KIND_COUNT;
}

/* The answer that both first questions of a follow-up share: "It is a cat."  The second answers name the thing again: who
 * says what is meant has only to look it up. */
static const char *const IT_IS[LANG_COUNT] = {"It is {nk}.", "是{nk}。", "{k}です。",
                                              "Es ist {nk}."};

static void follow_colour(record *r, chance *c, const facts *f, bool held_out) {
    static const char *const Q_PLACE[LANG_COUNT] = {"What is {place}?", "{place}是什么？",
                                                    "{place}は何ですか。", "Was ist {place}?"};
    static const wording Q_COLOUR = {
        .held_out = 5,
        .about = {"its colour", "它的颜色", "その色", "die Farbe davon"},
        .direct = {
            [LANG_EN] = {"Tell me its colour.", "What colour is it?", "And its colour?",
                         "Which colour does it have?", "What is its colour?", "Name its colour.",
                         "Tell me what colour it is."},
            [LANG_ZH] = {"告诉我它的颜色。", "它是什么颜色的？", "它的颜色呢？", "颜色是什么？",
                         "它的颜色是什么？", "说出它的颜色。", "请问它是什么颜色？"},
            [LANG_JA] = {"その色を教えてください。", "それは何色ですか。", "その色は何ですか。",
                         "色は何ですか。", "それはどんな色ですか。", "色を教えてください。",
                         "何色か教えてください。"},
            [LANG_DE] = {"Nenne mir die Farbe davon.", "Welche Farbe hat das?", "Und die Farbe?",
                         "Welche Farbe ist das?", "Nenne die Farbe.", "Was ist die Farbe davon?",
                         "Sag mir die Farbe."},
        }};
    static const char *const A_COLOUR[LANG_COUNT] = {"{The} {is} {colour}.", "{k}是{colour}的。",
                                                     "{k}は{colour}です。", "{The} {is} {colour}."};
    record_turn(r, Q_PLACE[r->lang], IT_IS[r->lang], f);
    ask_turn(r, c, held_out, &Q_COLOUR, A_COLOUR[r->lang], f);
    record_expect_colour(r, f->one.col);
    r->guess = 1.0 / COLOUR_COUNT;
}

static void follow_where(record *r, chance *c, const facts *f, bool held_out) {
    static const char *const Q_WHICH[LANG_COUNT] = {
        "Which object is {colour}?", "哪个东西是{colour}的？", "{ofcolour}ものは何ですか。",
        "Welches Ding ist {colour}?"};
    static const wording Q_WHERE = {
        .held_out = 6,
        .about = {"its place", "它的位置", "その場所", "der Ort davon"},
        .direct = {
            [LANG_EN] = {"Tell me where it is.", "Where is it?", "And where is it?",
                         "On which side is it?", "Where in the picture is it?",
                         "In which part is it?", "Where do you see it?"},
            [LANG_ZH] = {"告诉我它的位置。", "它在哪里？", "那它在哪里？", "它在哪边？",
                         "它的位置在哪里？", "告诉我它在哪里。", "它在图片的哪里？"},
            [LANG_JA] = {"その場所を教えてください。", "それはどこですか。", "では、どこですか。",
                         "どの位置ですか。", "それはどこにありますか。", "場所を教えてください。",
                         "どこか教えてください。"},
            [LANG_DE] = {"Sag mir, wo das ist.", "Wo ist das?", "Und wo ist das?",
                         "Auf welcher Seite ist das?", "Wo auf dem Bild ist das?",
                         "In welchem Teil ist das?", "Wo siehst du das?"},
        }};
    static const char *const A_WHERE[LANG_COUNT] = {"{The} is {place}.", "{k}在{place}。",
                                                    "{k}は{place}です。", "{The} ist {place}."};
    record_turn(r, Q_WHICH[r->lang], IT_IS[r->lang], f);
    ask_turn(r, c, held_out, &Q_WHERE, A_WHERE[r->lang], f);
    expect_place(r, f->where);
}

static void read_sign(record *r, chance *c, const scene *s, bool held_out) {
    static const wording Q = {
        .held_out = 7,
        .about = {"the text on the sign", "牌子上的文字", "看板の文字", "der Text auf dem Schild"},
        .direct = {
            [LANG_EN] = {"Which text is on the sign?", "What does the sign say?", "Read the sign.",
                         "What is written there?", "What is on the sign?",
                         "Which words are on the sign?", "What text do you see?", "Read the text."},
            [LANG_ZH] = {"牌子上的文字是什么？", "牌子上写着什么？", "读一读牌子。",
                         "上面写了什么？", "牌子上的字是什么？", "文字是什么？",
                         "牌子上有什么文字？"},
            [LANG_JA] = {"看板の文字は何ですか。", "看板に何と書いてありますか。",
                         "看板を読んでください。", "何と書いてありますか。",
                         "看板の文字を読んでください。", "文字は何ですか。",
                         "看板には何がありますか。"},
            [LANG_DE] = {"Welcher Text ist auf dem Schild?", "Was steht auf dem Schild?",
                         "Lies das Schild.", "Was steht dort?", "Welcher Text steht dort?",
                         "Lies den Text.", "Was ist auf dem Schild zu lesen?"},
        }};
    static const char *const A[LANG_COUNT] = {"The sign says {word}.", "牌子上写着{word}。",
                                              "{word}と書いてあります。", "Dort steht {word}."};
    facts f = {.word = s->sign};
    ask_turn(r, c, held_out, &Q, A[r->lang], &f);
    record_expect(r, s->sign);
    r->guess = 0.7 / lexicon_sign_count();
}

static void spell(record *r, chance *c, const scene *s, bool held_out) {
    static const wording Q = {
        .held_out = 0,
        .about = {"the text on the sign, letter by letter", "牌子上的每个字母",
                  "看板の文字の一つ一つ", "der Text auf dem Schild in Buchstaben"},
        .direct = {
            [LANG_EN] = {"Spell the text on the sign.", "Spell it.", "Spell the sign.",
                         "Spell what is written.", "Spell the text."},
            [LANG_ZH] = {"请拼出牌子上的文字。", "请拼出来。", "拼出牌子上的字。", "拼出上面写的。",
                         "请拼出文字。"},
            [LANG_JA] = {"看板の文字を一文字ずつ読んでください。", "一文字ずつ読んでください。",
                         "看板を一文字ずつ読んでください。", "一文字ずつお願いします。",
                         "文字を一文字ずつ読んでください。"},
            [LANG_DE] = {"Buchstabiere den Text auf dem Schild.", "Buchstabiere es.",
                         "Buchstabiere das Schild.", "Buchstabiere, was dort steht.",
                         "Buchstabiere den Text."},
        }};
    char letters[2 * SCENE_TEXT];
    size_t n = 0;
    for (const char *p = s->sign; *p; p++) {
        if (n) letters[n++] = ' ';
        letters[n++] = *p;
    }
    letters[n] = '\0';
    facts f = {.word = letters};
    ask_turn(r, c, held_out, &Q, "{word}", &f);
    record_expect(r, letters);
    r->guess = 0.7 / lexicon_sign_count();
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
    case ASK_FOLLOW_WHERE: return g < s->n_group && scene_group_place(s, g) != PLACE_COUNT;
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
    if (g < s->n_group) f.where = scene_group_place(s, g);
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
