// Package business counts business transactions (postings, payments, payroll
// runs) by outcome with the user's own SQL, in the background and in a session of
// its own, so that trouble is seen where accountants see it.
package business
