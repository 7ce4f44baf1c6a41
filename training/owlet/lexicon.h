/*
 * lexicon.h - the owlet's world in four languages: the kinds of objects it can see, colours, sizes, places,
 * and the grammar that its sentences need (plural, German gender, Chinese measure words, Japanese counters).
 */
#ifndef OWLET_LEXICON_H
#define OWLET_LEXICON_H

#include <stddef.h>

typedef enum { LANG_EN, LANG_ZH, LANG_JA, LANG_DE, LANG_COUNT } language;

typedef enum {
    KIND_BALL,
    KIND_BOX,
    KIND_STAR,
    KIND_HEART,
    KIND_TREE,
    KIND_HOUSE,
    KIND_CAR,
    KIND_FISH,
    KIND_CUP,
    KIND_FLOWER,
    KIND_BOAT,
    KIND_UMBRELLA,
    KIND_MUSHROOM,
    KIND_APPLE,
    KIND_CAT,
    KIND_BIRD,
    KIND_LAMP,
    KIND_BOOK,
    KIND_HAT,
    KIND_BOTTLE,
    KIND_KEY,
    KIND_KITE,
    KIND_MOON,
    KIND_CHAIR,
    KIND_COUNT
} kind;

typedef enum {
    COLOUR_RED,
    COLOUR_ORANGE,
    COLOUR_YELLOW,
    COLOUR_GREEN,
    COLOUR_BLUE,
    COLOUR_PURPLE,
    COLOUR_PINK,
    COLOUR_BROWN,
    COLOUR_BLACK,
    COLOUR_WHITE,
    COLOUR_GREY,
    COLOUR_COUNT
} colour;

typedef enum { PLACE_LEFT, PLACE_RIGHT, PLACE_TOP, PLACE_BOTTOM, PLACE_MIDDLE, PLACE_COUNT } place;

enum { OWLET_COUNT_MAX = 6 }; /* of things to count in one picture */

typedef struct {
    const char *en, *en_plural;
    const char *de, *de_plural;
    char de_gender; /* m f n */
    const char *zh, *zh_measure;
    const char *ja, *ja_counter;
} noun;
const noun *lexicon_noun(kind k);

typedef struct {
    const char *en;
    const char *de_stem; /* rot-er, rot-e, rot-es */
    const char *zh;      /* 红色 */
    const char *ja_of;   /* in front of a noun: 赤い, 緑色の */
    const char *ja_is;   /* in front of です: 赤色 */
    double r, g, b;
} shade;
const shade *lexicon_shade(colour c);

/* "on the left", "links", "在左边", "左"; */
const char *lexicon_place(place p, language l);
/* "three", "drei", "三", "3"; 0 to 20; Chinese counting says 两 for 2 in front of a measure word. */
const char *lexicon_number(int n, language l);
/* The length in bytes of the Chinese or Japanese word of this world that text begins with, the longest there is; 0: none. */
size_t lexicon_word_at(const char *text);
const char *lexicon_language(language l); /* "en" "zh" "ja" "de" */

/* Short words for signs, labels and papers (Latin letters); n is taken modulo lexicon_sign_count. */
const char *lexicon_sign(int n);
int lexicon_sign_count(void);
/* People's first names. */
const char *lexicon_person(int n);
int lexicon_person_count(void);

#endif
