/* lexicon.c - the words. */
#include "training/owlet/lexicon.h"

#include <string.h>

static const noun NOUN[KIND_COUNT] = {
    [KIND_BALL] = {"ball", "balls", "Ball", "Bälle", 'm', "球", "个", "ボール", "つ"},
    [KIND_BOX] = {"box", "boxes", "Kiste", "Kisten", 'f', "箱子", "个", "箱", "つ"},
    [KIND_STAR] = {"star", "stars", "Stern", "Sterne", 'm', "星星", "颗", "星", "つ"},
    [KIND_HEART] = {"heart", "hearts", "Herz", "Herzen", 'n', "爱心", "颗", "ハート", "つ"},
    [KIND_TREE] = {"tree", "trees", "Baum", "Bäume", 'm', "树", "棵", "木", "本"},
    [KIND_HOUSE] = {"house", "houses", "Haus", "Häuser", 'n', "房子", "座", "家", "軒"},
    [KIND_CAR] = {"car", "cars", "Auto", "Autos", 'n', "汽车", "辆", "車", "台"},
    [KIND_FISH] = {"fish", "fish", "Fisch", "Fische", 'm', "鱼", "条", "魚", "匹"},
    [KIND_CUP] = {"cup", "cups", "Tasse", "Tassen", 'f', "杯子", "个", "カップ", "つ"},
    [KIND_FLOWER] = {"flower", "flowers", "Blume", "Blumen", 'f', "花", "朵", "花", "本"},
    [KIND_BOAT] = {"boat", "boats", "Boot", "Boote", 'n', "船", "艘", "船", "隻"},
    [KIND_UMBRELLA] = {"umbrella", "umbrellas", "Schirm", "Schirme", 'm', "雨伞", "把", "傘", "本"},
    [KIND_MUSHROOM] = {"mushroom", "mushrooms", "Pilz", "Pilze", 'm', "蘑菇", "个", "きのこ", "本"},
    [KIND_APPLE] = {"apple", "apples", "Apfel", "Äpfel", 'm', "苹果", "个", "りんご", "つ"},
    [KIND_CAT] = {"cat", "cats", "Katze", "Katzen", 'f', "猫", "只", "猫", "匹"},
    [KIND_BIRD] = {"bird", "birds", "Vogel", "Vögel", 'm', "鸟", "只", "鳥", "羽"},
    [KIND_LAMP] = {"lamp", "lamps", "Lampe", "Lampen", 'f', "灯", "盏", "ランプ", "つ"},
    [KIND_BOOK] = {"book", "books", "Buch", "Bücher", 'n', "书", "本", "本", "冊"},
    [KIND_HAT] = {"hat", "hats", "Hut", "Hüte", 'm', "帽子", "顶", "帽子", "つ"},
    [KIND_BOTTLE] = {"bottle", "bottles", "Flasche", "Flaschen", 'f', "瓶子", "个", "瓶", "本"},
    [KIND_KEY] = {"key", "keys", "Schlüssel", "Schlüssel", 'm', "钥匙", "把", "鍵", "つ"},
    [KIND_KITE] = {"kite", "kites", "Drachen", "Drachen", 'm', "风筝", "只", "凧", "つ"},
    [KIND_MOON] = {"moon", "moons", "Mond", "Monde", 'm', "月亮", "个", "月", "つ"},
    [KIND_CHAIR] = {"chair", "chairs", "Stuhl", "Stühle", 'm', "椅子", "把", "椅子", "つ"},
};

static const shade SHADE[COLOUR_COUNT] = {
    [COLOUR_RED] = {"red", "rot", "红色", "赤い", "赤色", 0.86, 0.11, 0.12},
    [COLOUR_ORANGE] = {"orange", "orangefarben", "橙色", "オレンジ色の", "オレンジ色", 0.96, 0.52,
                       0.08},
    [COLOUR_YELLOW] = {"yellow", "gelb", "黄色", "黄色い", "黄色", 0.97, 0.86, 0.12},
    [COLOUR_GREEN] = {"green", "grün", "绿色", "緑色の", "緑色", 0.14, 0.62, 0.21},
    [COLOUR_BLUE] = {"blue", "blau", "蓝色", "青い", "青色", 0.13, 0.33, 0.87},
    [COLOUR_PURPLE] = {"purple", "violett", "紫色", "紫色の", "紫色", 0.50, 0.17, 0.68},
    [COLOUR_PINK] = {"pink", "rosafarben", "粉色", "ピンク色の", "ピンク色", 0.98, 0.55, 0.75},
    [COLOUR_BROWN] = {"brown", "braun", "棕色", "茶色い", "茶色", 0.48, 0.28, 0.12},
    [COLOUR_BLACK] = {"black", "schwarz", "黑色", "黒い", "黒色", 0.07, 0.07, 0.08},
    [COLOUR_WHITE] = {"white", "weiß", "白色", "白い", "白色", 0.97, 0.97, 0.97},
    [COLOUR_GREY] = {"grey", "grau", "灰色", "灰色の", "灰色", 0.55, 0.55, 0.56},
};

static const char *const PLACE[PLACE_COUNT][LANG_COUNT] = {
    [PLACE_LEFT] = {"on the left", "左边", "左", "links"},
    [PLACE_RIGHT] = {"on the right", "右边", "右", "rechts"},
    [PLACE_TOP] = {"at the top", "上面", "上", "oben"},
    [PLACE_BOTTOM] = {"at the bottom", "下面", "下", "unten"},
    [PLACE_MIDDLE] = {"in the middle", "中间", "真ん中", "in der Mitte"},
};

static const char *const NUMBER[21][LANG_COUNT] = {
    {"zero", "零", "0", "null"},
    {"one", "一", "1", "eins"},
    {"two", "二", "2", "zwei"},
    {"three", "三", "3", "drei"},
    {"four", "四", "4", "vier"},
    {"five", "五", "5", "fünf"},
    {"six", "六", "6", "sechs"},
    {"seven", "七", "7", "sieben"},
    {"eight", "八", "8", "acht"},
    {"nine", "九", "9", "neun"},
    {"ten", "十", "10", "zehn"},
    {"eleven", "十一", "11", "elf"},
    {"twelve", "十二", "12", "zwölf"},
    {"thirteen", "十三", "13", "dreizehn"},
    {"fourteen", "十四", "14", "vierzehn"},
    {"fifteen", "十五", "15", "fünfzehn"},
    {"sixteen", "十六", "16", "sechzehn"},
    {"seventeen", "十七", "17", "siebzehn"},
    {"eighteen", "十八", "18", "achtzehn"},
    {"nineteen", "十九", "19", "neunzehn"},
    {"twenty", "二十", "20", "zwanzig"},
};

static const char *const SIGN[] = {
    "STOP",  "OPEN",  "EXIT",  "CAFE",  "TAXI",  "BANK",  "PARK", "ZOO",  "BUS",   "HOTEL",
    "SHOP",  "SALE",  "FREE",  "MILK",  "TEA",   "BREAD", "FISH", "HOME", "LOVE",  "MOON",
    "STAR",  "SUN",   "RAIN",  "SNOW",  "WIND",  "FIRE",  "GOLD", "BLUE", "RED",   "EAST",
    "WEST",  "NORTH", "SOUTH", "PUSH",  "PULL",  "WAIT",  "GO",   "SLOW", "FAST",  "MUSIC",
    "BOOK",  "FARM",  "LAKE",  "BEACH", "PIZZA", "SOUP",  "CAKE", "RICE", "WATER", "JUICE",
    "LEMON", "APPLE", "HELLO", "HAPPY", "LUCKY", "MAGIC", "OWL",  "CAT",  "DOG",   "BEAR",
};

static const char *const PERSON[] = {"Anna", "Ben",  "Clara", "David", "Emma", "Felix", "Greta",
                                     "Hugo", "Ida",  "Jonas", "Kira",  "Leo",  "Mia",   "Noah",
                                     "Olga", "Paul", "Rosa",  "Tom",   "Vera", "Yuki"};

const noun *lexicon_noun(kind k) {
    return &NOUN[k];
}

const shade *lexicon_shade(colour c) {
    return &SHADE[c];
}

const char *lexicon_place(place p, language l) {
    return PLACE[p][l];
}

const char *lexicon_number(int n, language l) {
    return NUMBER[n][l];
}

static size_t longer(size_t best, const char *text, const char *word) {
    size_t n = strlen(word);
    return n > best && strncmp(text, word, n) == 0 ? n : best;
}

size_t lexicon_word_at(const char *text) {
    if ((unsigned char)*text < 0x80) return 0;
    size_t n = longer(0, text, "两");
    for (int k = 0; k < KIND_COUNT; k++) n = longer(longer(n, text, NOUN[k].zh), text, NOUN[k].ja);
    for (int c = 0; c < COLOUR_COUNT; c++)
        n = longer(longer(longer(n, text, SHADE[c].zh), text, SHADE[c].ja_of), text,
                   SHADE[c].ja_is);
    for (int p = 0; p < PLACE_COUNT; p++)
        n = longer(longer(n, text, PLACE[p][LANG_ZH]), text, PLACE[p][LANG_JA]);
    for (int i = 0; i <= 20; i++) n = longer(n, text, NUMBER[i][LANG_ZH]);
    return n;
}

const char *lexicon_language(language l) {
    static const char *const NAME[LANG_COUNT] = {"en", "zh", "ja", "de"};
    return NAME[l];
}

int lexicon_sign_count(void) {
    return (int)(sizeof SIGN / sizeof *SIGN);
}

const char *lexicon_sign(int n) {
    return SIGN[n % lexicon_sign_count()];
}

int lexicon_person_count(void) {
    return (int)(sizeof PERSON / sizeof *PERSON);
}

const char *lexicon_person(int n) {
    return PERSON[n % lexicon_person_count()];
}
