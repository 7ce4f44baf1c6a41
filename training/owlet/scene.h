/*
 * scene.h - what a picture shows, before it is drawn: groups of alike objects on a backdrop, perhaps a sign.
 * Coordinates are shares of the picture's side, 0..1, y downwards.
 */
#ifndef OWLET_SCENE_H
#define OWLET_SCENE_H

#include "training/owlet/chance.h"
#include "training/owlet/lexicon.h"

enum { SCENE_GROUPS_MAX = 3, SCENE_OBJECTS_MAX = 12, SCENE_TEXT = 16 };

typedef struct {
    kind what;
    colour col;
    double x, y, r; /* centre, half of its size */
    double turn;    /* radians */
    int group;
} object;

typedef struct {
    kind what;
    colour col;
    int count;
    bool large; /* against the other groups */
} group;

typedef enum {
    BACKDROP_SKY,
    BACKDROP_MEADOW,
    BACKDROP_SAND,
    BACKDROP_WALL,
    BACKDROP_WOOD,
    BACKDROP_BOKEH,
    BACKDROP_TILES,
    BACKDROP_NIGHT,
    BACKDROP_COUNT
} backdrop;

typedef struct {
    group group[SCENE_GROUPS_MAX];
    int n_group;
    object object[SCENE_OBJECTS_MAX]; /* by group */
    int n_object;
    char sign[SCENE_TEXT]; /* "" = none */
    double sign_x, sign_y, sign_w, sign_turn;
    colour sign_col, ink;
    int sign_font;
    backdrop back;
    double light;     /* 0.8 .. 1.15, how bright the photo is */
    uint64_t texture; /* seed of noise and details */
} scene;

/* A scene of n_group groups with at most `most` objects together. */
void scene_make(scene *s, chance *c, int n_group, int most);
/* One object of each of two kinds, clearly apart in one direction: for places. */
void scene_make_places(scene *s, chance *c, int n_object);
/* A sign with a word or a number, and perhaps an object beside it. */
void scene_make_sign(scene *s, chance *c, const char *text, bool with_object);

/* Where an object clearly is, or PLACE_COUNT when that is open to argument. */
place scene_place(const object *o);
/* Where the one object of group g is; PLACE_COUNT when there are several, or it is open to argument. */
place scene_group_place(const scene *s, int g);

/* What differs in the second picture of a pair. */
typedef enum { CHANGE_COLOUR, CHANGE_COUNT, CHANGE_KIND, CHANGE_NOTHING, CHANGE_COUNT_OF } change;
/* b = a with one thing changed, in group *g.  False: there was no such change that leaves the groups in their order. */
bool scene_change(const scene *a, scene *b, chance *c, change what, int *g);

#endif
