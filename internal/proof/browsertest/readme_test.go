package browsertest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// With SHOP_PICTURES, the pictures of the README go into that folder. They show the program's own
// demo: its catalog has all descriptions.
func TestReadmePictures(t *testing.T) {
	t.Parallel()
	folder := os.Getenv("SHOP_PICTURES")
	if folder == "" {
		t.Skip("SHOP_PICTURES names no folder")
	}
	b := newGuest(t, shoptest.Demo(t, shoptest.DatabaseURL(t), 1)[0])
	b.goTo("/")
	b.await("the bar has the first check", "document.querySelector('.demo-bar .holds') != null")
	b.picture(filepath.Join(folder, "shop.webp"))
	b.predictAndRun()
	b.click("#all")
	b.picture(filepath.Join(folder, "lab.webp"))
}

// picture writes what fits on a laptop's screen into a file, as WebP.
func (b *tab) picture(file string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1200, 900)); err != nil {
		b.t.Fatal(err)
	}
	eval[bool](b, `document.documentElement.style.scrollbarWidth = 'none', scrollTo(0, 0), true`)
	picture, err := chromedp.Call(ctx, page.CaptureScreenshot,
		page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatWebp, Quality: new(int64(80))})
	if err == nil {
		err = os.WriteFile(file, picture.Data, 0o644)
	}
	if err != nil {
		b.t.Errorf("picture %s: %v", file, err)
	}
}
