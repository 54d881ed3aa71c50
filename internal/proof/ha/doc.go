// Package ha proves what a shop of several nodes outlives: real servers as child processes, a
// balancer and a pooler before them, and orders that flow while a server fails over. Each test logs
// its figures: the longest gap without a new order, and how many acknowledged orders were lost or
// had two receipts. It holds tests only. See docs/operations.md, Fail-over.
package ha
