// Package script reads SQL scripts: it splits them into statements as the
// server would, and says of each statement what it does to which relations,
// which lock it takes, whether it rewrites, and whether it can be rolled back.
//
// It is no parser: it knows the words that a plan needs. What it cannot know
// (a function's body, a DO block) it says it does not know.
package script
