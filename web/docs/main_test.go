package docs_test

import (
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }
