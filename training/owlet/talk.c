/* talk.c - the text-only instructions.  Of each list of wordings the first is the exam's alone (ask.h). */
#include "training/owlet/talk.h"

#include "training/owlet/ask.h"

#include <stdio.h>
#include <string.h>

typedef const char *const by_language[LANG_COUNT];

static void sum(record *r, chance *c, bool held_out) {
    int a = chance_between(c, 1, 9), b = chance_between(c, 1, 9);
    bool minus = chance_is(c, 0.4);
    int x = minus ? a + b : a, result = minus ? a : a + b;
    static const wording Q = {
        .held_out = 2,
        .about = {"the result of {word}", "{word}的结果", "{word}の答え",
                  "das Ergebnis von {word}"},
        .direct = {
            [LANG_EN] = {"How much is {word}?", "What is {word}?", "Tell me what {word} is.",
                         "{word} is what?", "Compute {word}.", "{word}: how much is it?"},
            [LANG_ZH] = {"{word}是多少？", "{word}等于多少？", "计算{word}。", "算一算{word}。",
                         "{word}等于几？", "请问{word}等于多少？"},
            [LANG_JA] = {"{word}の答えは何ですか。", "{word}はいくつですか。",
                         "{word}を計算してください。", "{word}の答えはいくつですか。", "{word}は？",
                         "{word}は何ですか。"},
            [LANG_DE] = {"Was ist {word}?", "Wie viel ist {word}?", "Was ergibt {word}?",
                         "Berechne {word}.", "{word} ist wie viel?",
                         "Sag mir, wie viel {word} ist."},
        }};
    static by_language A = {"{word} is {number}.", "{word}等于{number}。", "{word}は{number}です。",
                            "{word} ist {number}."};
    char text[32];
    snprintf(text, sizeof text, "%d %s %d", x, minus ? "-" : "+", b);
    facts f = {.word = text, .number = result};
    ask_turn(r, c, held_out, &Q, A[r->lang], &f);
    char digits[16];
    snprintf(digits, sizeof digits, "%d", result);
    record_expect(r, digits);
    r->guess = 1.0 / 18;
}

static void larger(record *r, chance *c, bool held_out) {
    int a = chance_between(c, 1, 99), b = chance_between(c, 1, 98);
    if (b >= a) b++;
    static const wording Q = {
        .held_out = 3,
        .about = {"the larger number of {word}", "{word}中更大的数", "{word}の大きい方",
                  "die größere Zahl von {word}"},
        .direct = {
            [LANG_EN] = {"Tell me the larger number: {word}.", "Which number is larger: {word}?",
                         "Which is larger: {word}?", "{word}: which number is larger?",
                         "Name the larger number: {word}.", "What is the larger number: {word}?"},
            [LANG_ZH] = {"说出更大的数：{word}。", "哪个数更大：{word}？", "{word}，哪个更大？",
                         "哪个更大：{word}？", "更大的数是哪个：{word}？",
                         "告诉我哪个数更大：{word}。"},
            [LANG_JA] = {"大きい方の数を教えてください：{word}。", "どちらが大きいですか：{word}。",
                         "{word}、どちらが大きいですか。", "大きいのはどちらですか：{word}。",
                         "どちらの数が大きいですか：{word}。",
                         "大きい方の数はどちらですか：{word}。"},
            [LANG_DE] = {"Sag mir die größere Zahl: {word}.", "Welche Zahl ist größer: {word}?",
                         "Was ist größer: {word}?", "{word}: welche Zahl ist größer?",
                         "Nenne die größere Zahl: {word}.", "Welche ist die größere Zahl: {word}?"},
        }};
    static by_language A = {"{number} is larger.", "{number}更大。", "{number}の方が大きいです。",
                            "{number} ist größer."};
    char text[32], digits[16];
    snprintf(text, sizeof text, "%d, %d", a, b);
    facts f = {.word = text, .number = a > b ? a : b};
    ask_turn(r, c, held_out, &Q, A[r->lang], &f);
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
    static const wording Q = {
        .held_out = 4,
        .about = {"the opposite of {word}", "{word}的反义词", "{word}の反対",
                  "das Gegenteil von {word}"},
        .direct = {
            [LANG_EN] = {"Name the opposite of {word}.", "What is the opposite of {word}?",
                         "{word}: what is the opposite?", "Tell me the opposite of {word}.",
                         "Which word is the opposite of {word}?",
                         "The opposite of {word} is what?"},
            [LANG_ZH] = {"说出{word}的反义词。", "{word}的反义词是什么？", "告诉我{word}的反义词。",
                         "什么是{word}的反义词？", "{word}的反义词？",
                         "请问{word}的反义词是什么？"},
            [LANG_JA] = {"{word}の反対語は何ですか。", "{word}の反対は何ですか。",
                         "{word}の反対を教えてください。", "{word}の反対の言葉は何ですか。",
                         "{word}の反対語を教えてください。"},
            [LANG_DE] = {"Nenne das Gegenteil von {word}.", "Was ist das Gegenteil von {word}?",
                         "{word}: was ist das Gegenteil?", "Sag mir das Gegenteil von {word}.",
                         "Welches Wort ist das Gegenteil von {word}?",
                         "Das Gegenteil von {word} ist was?"},
        }};
    int i = chance_below(c, (int)(sizeof PAIR / sizeof *PAIR)), side = chance_below(c, 2);
    const char *want = PAIR[i][!side][r->lang];
    static by_language A = {"The opposite is {answer}.", "反义词是{answer}。",
                            "反対は{answer}です。", "Das Gegenteil ist {answer}."};
    facts f = {.word = PAIR[i][side][r->lang], .answer = want};
    ask_turn(r, c, held_out, &Q, A[r->lang], &f);
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
    static const wording Q = {
        .held_out = 5,
        .about = {"\"{word}\" in {in}", "“{word}”的{in}", "「{word}」の{in}", "„{word}“ auf {in}"},
        .direct = {
            [LANG_EN] = {"How do you say \"{word}\" in {in}?", "What is \"{word}\" in {in}?",
                         "Translate \"{word}\" into {in}.", "\"{word}\": what is it in {in}?",
                         "What do you call \"{word}\" in {in}?"},
            [LANG_ZH] = {"请把“{word}”翻译成{in}。", "“{word}”用{in}怎么说？",
                         "“{word}”的{in}是什么？", "用{in}说“{word}”。", "翻译成{in}：“{word}”。",
                         "把“{word}”翻译成{in}。"},
            [LANG_JA] = {"「{word}」を{in}に訳してください。", "「{word}」は{in}で何ですか。",
                         "「{word}」を{in}で言ってください。", "{in}で「{word}」は何と言いますか。",
                         "「{word}」を{in}で何と言いますか。",
                         "{in}に訳してください：「{word}」。"},
            [LANG_DE] = {"Wie sagt man „{word}“ auf {in}?", "Was heißt „{word}“ auf {in}?",
                         "Übersetze „{word}“, auf {in}.", "„{word}“: wie heißt das auf {in}?",
                         "Wie heißt „{word}“ auf {in}?", "Sag „{word}“ auf {in}."},
        }};
    static by_language A = {"In {in} it is {answer}.", "用{in}说是{answer}。",
                            "{in}で{answer}です。", "Auf {in} heißt es {answer}."};
    facts f = {.word = from, .answer = want, .in = name};
    ask_turn(r, c, held_out, &Q, A[r->lang], &f);
    record_expect(r, want);
    r->guess = 1.0 / KIND_COUNT;
}

static void next_number(record *r, chance *c, bool held_out) {
    static const wording Q = {
        .held_out = 6,
        .about = {"the next number after {word}", "{word}后面的数", "{word}の次の数",
                  "die nächste Zahl nach {word}"},
        .direct = {
            [LANG_EN] = {"What is the next number: {word}?", "Which number comes next: {word}?",
                         "{word}: what comes next?", "Go on: {word}.",
                         "Name the next number: {word}.", "Which is the next number after {word}?"},
            [LANG_ZH] = {"请说出下一个数：{word}。", "下一个数是什么：{word}？",
                         "{word}，下一个数是几？", "接下来是什么：{word}？",
                         "后面的数是什么：{word}？", "告诉我下一个数：{word}。"},
            [LANG_JA] = {"次に来る数は何ですか：{word}。", "次の数は何ですか：{word}。",
                         "{word}、次は何ですか。", "次は何が来ますか：{word}。",
                         "続きの数は何ですか：{word}。", "次の数を教えてください：{word}。"},
            [LANG_DE] = {"Was ist die nächste Zahl: {word}?", "Welche Zahl kommt danach: {word}?",
                         "{word}: was kommt danach?", "Weiter: {word}.",
                         "Nenne die nächste Zahl: {word}.", "Was kommt als Nächstes: {word}?"},
        }};
    static by_language A = {"Next comes {number}.", "下一个是{number}。", "次は{number}です。",
                            "Danach kommt {number}."};
    int step = chance_between(c, 1, 3), a = chance_between(c, 1, 20);
    char text[64], digits[16];
    snprintf(text, sizeof text, "%d, %d, %d", a, a + step, a + 2 * step);
    facts f = {.word = text, .number = a + 3 * step};
    ask_turn(r, c, held_out, &Q, A[r->lang], &f);
    snprintf(digits, sizeof digits, "%d", f.number);
    record_expect(r, digits);
    r->guess = 0.05;
}

static void repeat(record *r, chance *c, bool held_out) {
    static const wording Q = {
        .direct = {
            [LANG_EN] = {"Repeat \"{word}\" {number} times.", "Say \"{word}\" {number} times.",
                         "Write \"{word}\" {number} times.", "{number} times: \"{word}\".",
                         "Say {number} times: \"{word}\".", "Tell me \"{word}\" {number} times."},
            [LANG_ZH] = {"请把“{word}”重复{number}遍。", "把“{word}”说{number}遍。",
                         "“{word}”写{number}遍。", "说{number}遍“{word}”。",
                         "请说“{word}”{number}遍。", "把“{word}”重复{number}次。"},
            [LANG_JA] = {"「{word}」を{number}回書いてください。",
                         "「{word}」を{number}回言ってください。",
                         "{number}回言ってください：「{word}」。", "「{word}」を{number}回。",
                         "「{word}」と{number}回言ってください。",
                         "{number}回「{word}」と書いてください。"},
            [LANG_DE] = {"Wiederhole {number} Mal „{word}“.", "Sag {number} Mal „{word}“.",
                         "Schreib {number} Mal „{word}“.", "{number} Mal: „{word}“.",
                         "Sag „{word}“ {number} Mal.", "Wiederhole „{word}“, {number} Mal."},
        }};
    const char *word = noun_in((kind)chance_below(c, KIND_COUNT), r->lang);
    int n = chance_between(c, 2, 4);
    char answer[256] = "";
    for (int i = 0; i < n; i++) {
        strncat(answer, word, sizeof answer - strlen(answer) - 1);
        if (i < n - 1) strncat(answer, " ", sizeof answer - strlen(answer) - 1);
    }
    facts f = {.word = word, .number = n};
    ask_turn(r, c, held_out, &Q, answer, &f);
    record_expect(r, answer);
    r->guess = 0.01;
}

/* What people try first.  Not in the exam: there is nothing to know. */
static void greet(record *r, chance *c) {
    static const struct {
        const char *q[LANG_COUNT][4];
        by_language a;
    } TALK[] = {
        {{{"Hello!", "Hello.", "Hi!", "Good morning."},
          {"你好！", "你好。", "您好！", "早上好。"},
          {"こんにちは！", "こんにちは。", "おはよう。", "やあ！"},
          {"Hallo!", "Hallo.", "Guten Tag.", "Guten Morgen."}},
         {"Hello! Ask me about a picture.", "你好！请问我一张图片。",
          "こんにちは！画像について聞いてください。", "Hallo! Frag mich nach einem Bild."}},
        {{{"Who are you?", "What are you?", "What can you do?", "Can you help me?"},
          {"你是谁？", "你是什么？", "你会什么？", "你能帮我吗？"},
          {"あなたは誰ですか。", "あなたは何ですか。", "何ができますか。", "助けてくれますか。"},
          {"Wer bist du?", "Was bist du?", "Was kannst du?", "Kannst du mir helfen?"}},
         {"I am a small model. Ask me about a picture.", "我是一个小模型。请问我一张图片。",
          "小さなモデルです。画像について聞いてください。",
          "Ich bin ein kleines Modell. Frag mich nach einem Bild."}},
    };
    int i = chance_below(c, (int)(sizeof TALK / sizeof *TALK));
    facts f = {.word = ""};
    record_turn(r, TALK[i].q[r->lang][chance_below(c, 4)], TALK[i].a[r->lang], &f);
}

void talk_make(record *r, chance *c, bool held_out, int turns) {
    static void (*const MAKE[])(record *, chance *, bool) = {sum,       larger,      opposite,
                                                             translate, next_number, repeat};
    if (!held_out && chance_is(c, 0.2)) greet(r, c);
    while (r->n_turn < turns)
        MAKE[chance_below(c, (int)(sizeof MAKE / sizeof *MAKE))](r, c, held_out);
}
