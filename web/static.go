package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

//go:embed static
var staticFiles embed.FS

// versions has the hash of every static file, by its path in static/.
var versions = hashFiles()

func hashFiles() map[string]string {
	hashes := make(map[string]string)
	err := fs.WalkDir(staticFiles, "static", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := staticFiles.ReadFile(path)
		sum := sha256.Sum256(content)
		hashes[strings.TrimPrefix(path, "static/")] = hex.EncodeToString(sum[:8])
		return err
	})
	if err != nil {
		panic("web: the embedded files: " + err.Error())
	}
	return hashes
}

// asset returns the path of a static file. It changes with the content, so browsers can cache the
// file for ever.
func asset(name string) string {
	return "/static/" + name + "?v=" + versions[name]
}

// art returns the path of a product's picture.
func art(sku string) string {
	name := "art/" + strings.ToLower(sku) + ".svg"
	if _, ok := versions[name]; !ok {
		name = "art/default.svg"
	}
	return asset(name)
}

func serveStatic(c echo.Context) error {
	setSecurityHeaders(c)
	name := c.Param("*")
	version, ok := versions[name]
	if !ok {
		return echo.ErrNotFound
	}
	header := c.Response().Header()
	header.Set("ETag", `"`+version+`"`)
	header.Set("Cache-Control", "no-cache")
	if c.QueryParam("v") == version {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeFileFS(c.Response(), c.Request(), staticFiles, "static/"+name)
	return nil
}
