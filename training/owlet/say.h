/*
 * say.h - sentences in four languages from templates: "{The} {is} {colour}." is "The stars are red.",
 * "Die Sterne sind rot."; what a placeholder becomes depends on the language and on the facts.
 */
#ifndef OWLET_SAY_H
#define OWLET_SAY_H

#include "common/base/buf.h"
#include "training/owlet/scene.h"

typedef struct {
    group one, two;    /* what is spoken of; what it is compared with */
    const group *list; /* of {list} */
    int n_list;
    place where;
    const char *word; /* {word}, and the next two: verbatim */
    const char *answer, *in;
    int number; /* {number}: in digits */
} facts;

/*
 * Appends text with its placeholders filled in.  Those that speak of `one` (with a 2: of `two`):
 *   {the} {The}  the noun with its article, singular or plural as its count says ("die Sterne", 星星, 星)
 *   {dem}        the same in the German dative ("den Sternen")
 *   {k} {many}   the bare noun, singular / plural;  {m} Chinese measure word;  {c} Japanese counter
 *   {is}         is/are, ist/sind
 *   {n}          its count as a word;  {nk} count and noun ("three stars", 三颗星星, 星3つ)
 *   {ck}         one of it with its colour ("a red star", "ein roter Stern");  {nck} count, colour and noun
 *   {colour}     as a predicate;  {ofcolour}: in front of a noun, Japanese only
 * and {list}, {listis} (is/are for all of the list), {place}, {word}, {answer}, {in}, {number}.
 * An unknown placeholder is a mistake in a template: TY_EINTERNAL stays in the buffer's `failed`.
 */
void say(ty_buf *b, language l, const char *text, const facts *f);

#endif
