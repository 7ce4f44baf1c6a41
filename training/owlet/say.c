/* say.c - the grammar. */
#include "training/owlet/say.h"

#include <ctype.h>
#include <string.h>

/* ein roter Stern, eine rote Blume, ein rotes Haus; zwei rote Sterne. */
static const char *german_ending(const group *g) {
    if (g->count > 1) return "e";
    char gender = lexicon_noun(g->what)->de_gender;
    return gender == 'm' ? "er" : gender == 'f' ? "e" : "es";
}

static bool vowel(const char *s) {
    return strchr("aeiou", s[0]) != NULL;
}

static const char *bare(const group *g, language l) {
    const noun *n = lexicon_noun(g->what);
    bool many = g->count > 1;
    switch (l) {
    case LANG_EN: return many ? n->en_plural : n->en;
    case LANG_DE: return many ? n->de_plural : n->de;
    case LANG_ZH: return n->zh;
    default: return n->ja;
    }
}

/* German dative with its article: dem Boot, der Blume, den Booten. */
static void dative(ty_buf *b, const group *g) {
    const noun *n = lexicon_noun(g->what);
    if (g->count == 1) {
        ty_buf_printf(b, "%s %s", n->de_gender == 'f' ? "der" : "dem", n->de);
        return;
    }
    char last = n->de_plural[strlen(n->de_plural) - 1];
    ty_buf_printf(b, "den %s%s", n->de_plural, last == 'n' || last == 's' ? "" : "n");
}

static void the(ty_buf *b, language l, const group *g, bool capital) {
    if (l == LANG_EN) ty_buf_puts(b, capital ? "The " : "the ");
    if (l == LANG_DE) {
        char gender = lexicon_noun(g->what)->de_gender;
        const char *article = g->count > 1 || gender == 'f' ? "die "
                              : gender == 'm'               ? "der "
                                                            : "das ";
        ty_buf_printf(b, "%c%s", capital ? toupper((unsigned char)article[0]) : article[0],
                      article + 1);
    }
    ty_buf_puts(b, bare(g, l));
}

/* "three stars", or with the colour "three red stars". */
static void counted(ty_buf *b, language l, const group *g, bool coloured) {
    const noun *n = lexicon_noun(g->what);
    const shade *s = lexicon_shade(g->col);
    switch (l) {
    case LANG_EN:
        if (g->count == 1)
            ty_buf_puts(b, vowel(coloured ? s->en : n->en) ? "an " : "a ");
        else
            ty_buf_printf(b, "%s ", lexicon_number(g->count, l));
        if (coloured) ty_buf_printf(b, "%s ", s->en);
        ty_buf_puts(b, bare(g, l));
        break;
    case LANG_DE:
        if (g->count == 1)
            ty_buf_puts(b, n->de_gender == 'f' ? "eine " : "ein ");
        else
            ty_buf_printf(b, "%s ", lexicon_number(g->count, l));
        if (coloured) ty_buf_printf(b, "%s%s ", s->de_stem, german_ending(g));
        ty_buf_puts(b, bare(g, l));
        break;
    case LANG_ZH:
        ty_buf_printf(b, "%s%s", g->count == 2 ? "两" : lexicon_number(g->count, l), n->zh_measure);
        ty_buf_printf(b, "%s%s%s", coloured ? s->zh : "", coloured ? "的" : "", n->zh);
        break;
    default:
        ty_buf_printf(b, "%s%s%d%s", coloured ? s->ja_of : "", n->ja, g->count, n->ja_counter);
        break;
    }
}

static void one_coloured(ty_buf *b, language l, const group *g) {
    group single = *g;
    single.count = 1;
    if (l == LANG_JA)
        ty_buf_printf(b, "%s%s", lexicon_shade(g->col)->ja_of, lexicon_noun(g->what)->ja);
    else
        counted(b, l, &single, true);
}

static const char *predicate(colour c, language l) {
    const shade *s = lexicon_shade(c);
    switch (l) {
    case LANG_EN: return s->en;
    case LANG_DE: return s->de_stem;
    case LANG_ZH: return s->zh;
    default: return s->ja_is;
    }
}

static const char *is(language l, int count) {
    if (l == LANG_EN) return count > 1 ? "are" : "is";
    if (l == LANG_DE) return count > 1 ? "sind" : "ist";
    return "";
}

static void list(ty_buf *b, language l, const facts *f) {
    static const char *const COMMA[LANG_COUNT] = {", ", "、", "、", ", "};
    static const char *const AND[LANG_COUNT] = {" and ", "和", "と", " und "};
    for (int i = 0; i < f->n_list; i++) {
        if (i) ty_buf_puts(b, i == f->n_list - 1 ? AND[l] : COMMA[l]);
        counted(b, l, &f->list[i], true);
    }
}

static int listed(const facts *f) {
    int n = 0;
    for (int i = 0; i < f->n_list; i++) n += f->list[i].count;
    return n;
}

static bool same(const char *name, size_t n, const char *want) {
    return strlen(want) == n && memcmp(name, want, n) == 0;
}

static bool say_of_group(ty_buf *b, language l, const char *name, size_t n, const group *g) {
    group many = *g, single = *g;
    many.count = 2;
    single.count = 1;
    if (same(name, n, "the")) return the(b, l, g, false), true;
    if (same(name, n, "The")) return the(b, l, g, true), true;
    if (same(name, n, "dem")) return dative(b, g), true;
    if (same(name, n, "k")) return ty_buf_puts(b, bare(&single, l)), true;
    if (same(name, n, "many")) return ty_buf_puts(b, bare(&many, l)), true;
    if (same(name, n, "m")) return ty_buf_puts(b, lexicon_noun(g->what)->zh_measure), true;
    if (same(name, n, "c")) return ty_buf_puts(b, lexicon_noun(g->what)->ja_counter), true;
    if (same(name, n, "is")) return ty_buf_puts(b, is(l, g->count)), true;
    if (same(name, n, "n"))
        return ty_buf_puts(b, l == LANG_ZH && g->count == 2 ? "两" : lexicon_number(g->count, l)),
               true;
    if (same(name, n, "nk")) return counted(b, l, g, false), true;
    if (same(name, n, "nck")) return counted(b, l, g, true), true;
    if (same(name, n, "ck")) return one_coloured(b, l, g), true;
    if (same(name, n, "colour")) return ty_buf_puts(b, predicate(g->col, l)), true;
    if (same(name, n, "ofcolour")) return ty_buf_puts(b, lexicon_shade(g->col)->ja_of), true;
    return false;
}

static bool say_one(ty_buf *b, language l, const char *name, size_t n, const facts *f) {
    if (same(name, n, "list")) return list(b, l, f), true;
    if (same(name, n, "listis")) return ty_buf_puts(b, is(l, listed(f))), true;
    if (same(name, n, "place")) return ty_buf_puts(b, lexicon_place(f->where, l)), true;
    if (same(name, n, "word")) return ty_buf_puts(b, f->word), true;
    if (same(name, n, "answer")) return ty_buf_puts(b, f->answer), true;
    if (same(name, n, "in")) return ty_buf_puts(b, f->in), true;
    if (same(name, n, "number")) return ty_buf_printf(b, "%d", f->number), true;
    if (n > 1 && name[n - 1] == '2') return say_of_group(b, l, name, n - 1, &f->two);
    return say_of_group(b, l, name, n, &f->one);
}

void say(ty_buf *b, language l, const char *text, const facts *f) {
    while (*text) {
        size_t plain = strcspn(text, "{");
        ty_buf_append(b, text, plain);
        text += plain;
        if (!*text) break;
        const char *end = strchr(text, '}');
        if (!end || !say_one(b, l, text + 1, (size_t)(end - text - 1), f)) {
            b->failed = TY_EINTERNAL;
            return;
        }
        text = end + 1;
    }
}
