package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

//go:embed static
var staticFiles embed.FS

var static = NewAssets("/static", staticFiles, "static")

// Assets are the static files of pages, each at an address that changes with its content.
type Assets struct {
	path  string
	files fs.FS
	// versions has the hash of every file, by its name.
	versions map[string]string
}

// NewAssets returns the files under a folder, for addresses under path. It panics if there is no
// such folder.
func NewAssets(path string, files fs.FS, folder string) *Assets {
	files, err := fs.Sub(files, folder)
	if err != nil {
		panic("web: the embedded files: " + err.Error())
	}
	a := &Assets{path: path, files: files, versions: make(map[string]string)}
	err = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, name)
		sum := sha256.Sum256(content)
		a.versions[name] = hex.EncodeToString(sum[:8])
		return err
	})
	if err != nil {
		panic("web: the embedded files: " + err.Error())
	}
	return a
}

// Address returns the path of a file. Browsers can cache what is there for ever.
func (a *Assets) Address(name string) string {
	return a.path + "/" + name + "?v=" + a.versions[name]
}

// Register serves the files.
func (a *Assets) Register(e *echo.Echo) {
	e.Match(readMethods, a.path+"/*", a.serve, middleware.GzipWithConfig(middleware.GzipConfig{Skipper: asTheyAre}))
}

// asTheyAre reports whether a request is answered without compression: fonts are compressed, and a
// range counts the bytes of the file.
func asTheyAre(c echo.Context) bool {
	return path.Ext(c.Param("*")) == ".woff2" || c.Request().Header.Get("Range") != ""
}

func (a *Assets) serve(c echo.Context) error {
	setSecurityHeaders(c)
	name := c.Param("*")
	version, ok := a.versions[name]
	if !ok {
		return echo.ErrNotFound
	}
	header := c.Response().Header()
	header.Set("ETag", `W/"`+version+`"`) // weak: it is that of the compressed file, too
	header.Set("Cache-Control", "no-cache")
	if c.QueryParam("v") == version {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeFileFS(c.Response(), c.Request(), a.files, name)
	return nil
}

// Asset returns the address of a static file for a page of another server that serves Static.
func Asset(name string) string { return static.Address(name) }

// Static serves the static files to pages outside the shop, under /static/.
func Static() http.Handler {
	e := echo.New()
	static.Register(e)
	return e
}

// art returns the path of a product's picture.
func art(sku string) string {
	name := "art/" + strings.ToLower(sku) + ".svg"
	if _, ok := static.versions[name]; !ok {
		name = "art/default.svg"
	}
	return static.Address(name)
}
