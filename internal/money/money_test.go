package money_test

import (
	"math"
	"testing"

	"github.com/onceshop/onceshop/internal/money"
)

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		amount   int64
		currency string
		want     string
	}{
		{1250, "EUR", "€12.50"},
		{1250, "JPY", "¥1,250"},
		{1250, "BHD", "BHD\u00a01.250"},
		{1250, "USD", "$12.50"},
		{1250, "GBP", "£12.50"},
		{1250, "CHF", "CHF\u00a012.50"},
		{1250, "CLF", "CLF\u00a00.1250"},
		{0, "EUR", "€0.00"},
		{5, "EUR", "€0.05"},
		{-5, "EUR", "-€0.05"},
		{123456789, "EUR", "€1,234,567.89"},
		{math.MaxInt64, "JPY", "¥9,223,372,036,854,775,807"},
		{math.MinInt64, "BHD", "-BHD\u00a09,223,372,036,854,775.808"},
		{1250, "XYZ", "1250 XYZ"},
		{1250, "eur", "1250 eur"},
	} {
		if got := money.Format(tc.amount, tc.currency); got != tc.want {
			t.Errorf("Format(%d, %q) = %q, want %q", tc.amount, tc.currency, got, tc.want)
		}
	}
}

func TestValid(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"EUR": true, "JPY": true, "BHD": true,
		"": false, "eur": false, "EU": false, "EURO": false, "XYZ": false, "DEM": false,
	} {
		if got := money.Valid(code); got != want {
			t.Errorf("Valid(%q) = %v, want %v", code, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text, currency string
		want           int64
		ok             bool
	}{
		{"12.50", "EUR", 1250, true},
		{"12.5", "EUR", 1250, true},
		{"12", "EUR", 1200, true},
		{"0.01", "EUR", 1, true},
		{"12.500", "EUR", 1250, true},
		{"1250", "JPY", 1250, true},
		{"1.250", "BHD", 1250, true},
		{"12.505", "EUR", 0, false},
		{"12.5", "JPY", 0, false},
		{"12,50", "EUR", 0, false},
		{"1,250.00", "EUR", 0, false},
		{"-1", "EUR", 0, false},
		{"1e3", "EUR", 0, false},
		{"NaN", "EUR", 0, false},
		{"", "EUR", 0, false},
		{"12", "XYZ", 0, false},
	} {
		got, err := money.Parse(tc.text, tc.currency)
		if (err == nil) != tc.ok || err == nil && got != (money.Money{Minor: tc.want, Currency: tc.currency}) {
			t.Errorf("Parse(%q, %q) = %v, %v", tc.text, tc.currency, got, err)
		}
	}
}
