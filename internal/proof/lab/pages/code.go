package pages

import (
	"go/scanner"
	"go/token"
)

// piece is a part of some source: a comment, or what is between comments.
type piece struct {
	Text    string
	Comment bool
}

// pieces takes Go source apart, so that its comments can step back behind the code.
func pieces(source string) []piece {
	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(source))
	s.Init(file, []byte(source), nil, scanner.ScanComments)
	var all []piece
	end := 0
	for {
		at, what, text := s.Scan()
		if what == token.EOF {
			return append(all, piece{Text: source[end:]})
		}
		if what == token.COMMENT {
			begin := file.Offset(at)
			all = append(all, piece{Text: source[end:begin]}, piece{text, true})
			end = begin + len(text)
		}
	}
}
