package main

import (
	"fmt"
	"math"
	"strconv"
)

// The style sheet's papers, and the contrast that small text needs on them (WCAG 2, level AA) with
// something to spare.
const (
	lightPaper, darkPaper = "#faf7f2", "#211d19"
	contrast              = 4.8
)

// paint sets the accents of both color schemes to tones of the shop's color that can be read, and
// the mark to the color itself.
func (s shop) paint() error {
	if s.color == "" {
		return nil
	}
	light, dark := readable(s.color, lightPaper, 0), readable(s.color, darkPaper, 255)
	const style = "web/static/style.css"
	return s.edit(
		edit{"web/static/mark.svg", `fill="#c94a1c"`, `fill="` + s.color + `"`},
		edit{style, "--accent: #b83f16;", "--accent: " + light + ";"},
		edit{style, "--accent-deep: #97310d;", "--accent-deep: " + mix(light, 0, .2) + ";"},
		edit{style, "--accent: #f2895a;", "--accent: " + dark + ";"},
		edit{style, "--accent-deep: #f8a580;", "--accent-deep: " + mix(dark, 255, .2) + ";"},
		edit{style, "--on-accent: #26100a;", "--on-accent: " + mix(s.color, 0, .85) + ";"},
	)
}

// readable mixes black (0) or white (255) into the color until it stands out from the paper.
func readable(color, paper string, with float64) string {
	for share := 0.0; share < 1; share += .02 {
		if tone := mix(color, with, share); ratio(tone, paper) >= contrast {
			return tone
		}
	}
	return mix(color, with, 1)
}

func mix(color string, with, share float64) string {
	mixed := "#"
	for _, c := range channels(color) {
		mixed += fmt.Sprintf("%02x", int(math.Round(c+(with-c)*share)))
	}
	return mixed
}

// ratio is the contrast of two colors, from 1 to 21.
func ratio(a, b string) float64 {
	x, y := luminance(a)+.05, luminance(b)+.05
	return max(x, y) / min(x, y)
}

func luminance(color string) float64 {
	sum := 0.0
	for i, c := range channels(color) {
		c /= 255
		if c <= .04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+.055)/1.055, 2.4)
		}
		sum += c * [3]float64{.2126, .7152, .0722}[i]
	}
	return sum
}

func channels(color string) (c [3]float64) {
	for i := range c {
		n, _ := strconv.ParseUint(color[1+2*i:3+2*i], 16, 8) // hexColor has checked it
		c[i] = float64(n)
	}
	return c
}
