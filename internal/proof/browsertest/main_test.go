// Package browsertest visits the shop as people do, in a real Chromium: whatever they press, reload
// or go back to, it is one order, one capture, one receipt, and no error page.
package browsertest

import (
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }
