//! Routes to drive: those that come with the simulator, and those from GeoJSON and GPX files.
//!
//! A file is input from outside: its size, its points and its lines are bounded, and every refusal names the file, what it
//! was, and what was expected.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use geojson::{GeoJson, Geometry, GeometryValue};
use tracks::LatLon;
use tracks::corridor::Corridor;
use tracks::fence::Circle;
use tracks::route::{POINTS_MAX, Polyline, PolylineError};

/// The largest route file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The most routes that are taken from one file.
pub const ROUTES_MAX: usize = 10_000;

/// The most collections, and the most XML elements, inside each other.
const NESTING_MAX: usize = 64;

/// Parts of one line (a GPX track's segments, a MultiLineString's lines) are joined over gaps up to this, in metres.
const JOIN_M: f64 = 100.0;

/// The most characters of a route's name.
const NAME_CHARS_MAX: usize = 64;

/// The radius of the arrival fence around a route's end, in metres, where nobody asked for another.
pub const FENCE_RADIUS_M: f64 = 60.0;

/// Half the width of the corridor around a route, in metres, where nobody asked for another.
pub const CORRIDOR_HALF_WIDTH_M: f64 = 50.0;

/// OpenStreetMap contributors, ODbL 1.0; see `routes/README.md`.
const BUILTIN: &str = include_str!("../routes/helsinki.geojson");

/// A line to drive, with a name.
#[derive(Debug, Clone)]
pub struct Route {
    /// What the file calls it, else the file's name and a number; at most 64 characters.
    pub name: String,
    /// The planned way.
    pub line: Polyline,
}

/// Why a file gives no routes.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The file cannot be read.
    #[error("route file {file}: {source}")]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any route.
    #[error("route file {file} is larger than the limit of {FILE_BYTES_MAX} bytes: cut it to the route")]
    TooLarge {
        /// Which file.
        file: PathBuf,
    },
    /// The file is neither GeoJSON nor GPX.
    #[error(
        "route file {file} is no route: expected GeoJSON with LineString or MultiLineString features, or GPX with tracks or routes, but {what}"
    )]
    NoRoute {
        /// Which file.
        file: PathBuf,
        /// What it was instead.
        what: String,
    },
    /// The file has a line that cannot be driven.
    #[error("route file {file}, route {name:?}: {source}")]
    Line {
        /// Which file.
        file: PathBuf,
        /// Which of its routes.
        name: String,
        /// What is wrong with it.
        source: PolylineError,
    },
    /// The file has too many routes or points.
    #[error("route file {file} has more than {limit} {what}: cut it to what is to be driven")]
    TooMany {
        /// Which file.
        file: PathBuf,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl Route {
    /// Where the route ends.
    pub fn destination(&self) -> LatLon {
        self.line.point_at(self.line.length_m())
    }

    /// The corridor that the truck is to keep to.
    pub fn corridor(&self) -> Corridor {
        Corridor::new(self.line.clone(), CORRIDOR_HALF_WIDTH_M).expect("the half width is a constant above 0")
    }

    /// The arrival fence: a circle around the destination.
    pub fn arrival_fence(&self) -> Circle {
        Circle::new(self.destination(), FENCE_RADIUS_M)
            .expect("a point of a line is on Earth and the radius is a constant")
    }
}

/// The routes that come with the simulator, in Helsinki: `route-1` of 2.7 km, `route-6`, `route-7` and `route-8` of 5 to 6 km.
pub fn builtin() -> Vec<Route> {
    parse(Path::new("helsinki.geojson"), BUILTIN.as_bytes()).expect("a test reads the built-in routes")
}

/// The built-in route of this name.
pub fn builtin_named(name: &str) -> Option<Route> {
    builtin().into_iter().find(|route| route.name == name)
}

/// Reads the routes of a GeoJSON or GPX file. What the file is, is told from its content.
///
/// # Errors
/// The file cannot be read, is too large, is no GeoJSON or GPX, has no line, or has one that cannot be driven.
pub fn load(path: &Path) -> Result<Vec<Route>, RouteError> {
    let io = |source| RouteError::Io { file: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // A directory or a device has no content to be a route.
    if !file.metadata().map_err(io)?.is_file() {
        return Err(no_route(path, "it is not a file".to_owned()));
    }
    let mut content = Vec::new();
    // Counted while reading, because the size in the metadata may be out of date.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(RouteError::TooLarge { file: path.to_owned() });
    }
    parse(path, &content)
}

fn no_route(file: &Path, what: String) -> RouteError {
    RouteError::NoRoute { file: file.to_owned(), what }
}

fn parse(file: &Path, content: &[u8]) -> Result<Vec<Route>, RouteError> {
    let text = std::str::from_utf8(content)
        .map_err(|error| no_route(file, format!("it is not UTF-8 text: {error}")))?;
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let mut lines = Lines { file, found: Vec::new(), points: 0 };
    match text.chars().next() {
        Some('{') => lines.read_geojson(text)?,
        Some('<') => lines.read_gpx(text)?,
        Some(first) => return Err(no_route(file, format!("it starts with {first:?}"))),
        None => return Err(no_route(file, "it is empty".to_owned())),
    }
    lines.into_routes()
}

/// Collects the lines of one file.
struct Lines<'a> {
    file: &'a Path,
    found: Vec<(Option<String>, Vec<LatLon>)>,
    points: usize,
}

impl Lines<'_> {
    fn read_geojson(&mut self, text: &str) -> Result<(), RouteError> {
        let parsed = GeoJson::from_str(text)
            .map_err(|error| no_route(self.file, format!("it cannot be read as GeoJSON: {error}")))?;
        match parsed {
            GeoJson::Geometry(geometry) => self.add_geometry(None, &geometry, 0),
            GeoJson::Feature(feature) => self.add_feature(&feature),
            GeoJson::FeatureCollection(collection) => {
                collection.features.iter().try_for_each(|feature| self.add_feature(feature))
            }
        }
    }

    fn add_feature(&mut self, feature: &geojson::Feature) -> Result<(), RouteError> {
        let Some(geometry) = &feature.geometry else {
            return Ok(());
        };
        let word = |key: &str| feature.property(key).and_then(|value| value.as_str()).map(str::to_owned);
        let name = word("id").or_else(|| word("name")).or_else(|| match &feature.id {
            Some(geojson::feature::Id::String(id)) => Some(id.clone()),
            Some(geojson::feature::Id::Number(id)) => Some(id.to_string()),
            None => None,
        });
        self.add_geometry(name, geometry, 0)
    }

    fn add_geometry(
        &mut self,
        name: Option<String>,
        geometry: &Geometry,
        depth: usize,
    ) -> Result<(), RouteError> {
        if depth > NESTING_MAX {
            return Err(RouteError::TooMany {
                file: self.file.to_owned(),
                what: "collections inside each other",
                limit: NESTING_MAX,
            });
        }
        match &geometry.value {
            GeometryValue::LineString { coordinates } => self.add_line(name, vec![self.places(coordinates)?]),
            GeometryValue::MultiLineString { coordinates } => {
                let parts = coordinates.iter().map(|part| self.places(part)).collect::<Result<_, _>>()?;
                self.add_line(name, parts)
            }
            GeometryValue::GeometryCollection { geometries } => {
                geometries.iter().try_for_each(|inner| self.add_geometry(name.clone(), inner, depth + 1))
            }
            // Points and areas beside the lines are no error: maps have them.
            _ => Ok(()),
        }
    }

    /// GeoJSON positions are longitude first (RFC 7946, section 3.1.1).
    fn places(&self, line: &[geojson::Position]) -> Result<Vec<LatLon>, RouteError> {
        line.iter()
            .map(|position| match position.as_slice() {
                [lon, lat, ..] => Ok(LatLon::new(*lat, *lon)),
                short => {
                    Err(no_route(self.file, format!("a position has {} numbers, not 2 or 3", short.len())))
                }
            })
            .collect()
    }

    fn read_gpx(&mut self, text: &str) -> Result<(), RouteError> {
        if is_deep_xml(text) {
            return Err(RouteError::TooMany {
                file: self.file.to_owned(),
                what: "XML elements inside each other",
                limit: NESTING_MAX,
            });
        }
        let gpx = gpx::read(text.as_bytes()).map_err(|error| no_route(self.file, gpx_trouble(&error)))?;
        let place = |point: &gpx::Waypoint| LatLon::new(point.point().y(), point.point().x());
        for track in gpx.tracks {
            let parts = track.segments.iter().map(|segment| segment.points.iter().map(place).collect());
            self.add_line(track.name.clone(), parts.collect())?;
        }
        for route in gpx.routes {
            self.add_line(route.name, vec![route.points.iter().map(place).collect()])?;
        }
        Ok(())
    }

    /// Adds the parts of one line, joined where the next begins near the end of the one before.
    fn add_line(&mut self, name: Option<String>, parts: Vec<Vec<LatLon>>) -> Result<(), RouteError> {
        let mut is_first = true;
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            self.points += part.len();
            let too_many = |what, limit| RouteError::TooMany { file: self.file.to_owned(), what, limit };
            if self.points > 10 * POINTS_MAX {
                return Err(too_many("points", 10 * POINTS_MAX));
            }
            let is_next = !is_first
                && self
                    .found
                    .last()
                    .and_then(|(_, line)| line.last())
                    .is_some_and(|end| end.distance_m(part[0]) <= JOIN_M);
            is_first = false;
            if is_next && let Some((_, line)) = self.found.last_mut() {
                line.extend(part);
            } else if self.found.len() < ROUTES_MAX {
                self.found.push((name.clone(), part));
            } else {
                return Err(too_many("lines", ROUTES_MAX));
            }
        }
        Ok(())
    }

    fn into_routes(self) -> Result<Vec<Route>, RouteError> {
        let stem = self
            .file
            .file_stem()
            .map_or_else(|| "route".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let mut routes = Vec::with_capacity(self.found.len());
        let mut too_short = None;
        for (index, (name, points)) in self.found.into_iter().enumerate() {
            let name = name
                .filter(|name| !name.trim().is_empty())
                .unwrap_or_else(|| format!("{stem}-{}", index + 1));
            let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
            match Polyline::new(points) {
                Ok(line) => routes.push(Route { name, line }),
                // A track with one point beside real ones is a recording that was stopped at once.
                Err(PolylineError::TooShort { points }) => too_short = Some((name, points)),
                Err(source) => return Err(RouteError::Line { file: self.file.to_owned(), name, source }),
            }
        }
        match too_short {
            _ if !routes.is_empty() => Ok(routes),
            Some((name, points)) => Err(RouteError::Line {
                file: self.file.to_owned(),
                name,
                source: PolylineError::TooShort { points },
            }),
            None => Err(no_route(self.file, "it has no line".to_owned())),
        }
    }
}

/// Whether XML elements are nested deeper than [`NESTING_MAX`]: the reader's time grows with the square of the depth.
fn is_deep_xml(text: &str) -> bool {
    let mut depth = 0usize;
    let mut rest = text;
    while let Some(at) = rest.find(['<', '/']) {
        rest = &rest[at..];
        if rest.starts_with("<!--") {
            rest = rest.find("-->").map_or("", |end| &rest[end..]);
        } else if rest.starts_with("</") {
            depth = depth.saturating_sub(1);
            rest = &rest[2..];
            continue;
        } else if rest.starts_with("/>") {
            depth = depth.saturating_sub(1);
        } else if rest.starts_with('<') && !rest.starts_with("<!") && !rest.starts_with("<?") {
            depth += 1;
        }
        if depth > NESTING_MAX {
            return true;
        }
        rest = rest.get(1..).unwrap_or("");
    }
    false
}

/// The reader's errors name an XML error without saying which; the source does.
fn gpx_trouble(error: &gpx::errors::GpxError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("it cannot be read as GPX: {error}: {source}"),
        None => format!("it cannot be read as GPX: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Vec<Route>, RouteError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("the-file.json");
        std::fs::write(&path, content).unwrap();
        load(&path)
    }

    #[test]
    fn the_built_in_routes_are_there_and_about_as_long_as_they_say() {
        let names: Vec<String> = builtin().into_iter().map(|route| route.name).collect();
        assert_eq!(names, ["route-1", "route-6", "route-7", "route-8"]);
        for (name, length_m) in
            [("route-1", 2710.0), ("route-6", 5970.0), ("route-7", 5165.0), ("route-8", 5275.0)]
        {
            let route = builtin_named(name).unwrap();
            assert!((route.line.length_m() - length_m).abs() < 30.0, "{name}: {}", route.line.length_m());
            assert!(route.arrival_fence().centre().distance_m(route.destination()) < 0.01);
        }
        assert!(builtin_named("route-99").is_none());
    }

    #[test]
    fn lines_are_found_wherever_geojson_may_have_them() {
        let line = r#"{"type":"LineString","coordinates":[[24.9,60.1],[24.91,60.1,12.5]]}"#;
        let multi = r#"{"type":"MultiLineString","coordinates":[[[24.9,60.1],[24.91,60.1]],[[24.9101,60.1],[24.92,60.1]],[[25.9,60.1],[25.91,60.1]]]}"#;
        let feature = |properties: &str, geometry: &str| {
            format!(r#"{{"type":"Feature","properties":{properties},"geometry":{geometry}}}"#)
        };
        let point = r#"{"type":"Point","coordinates":[1,2]}"#;
        let collection = |features: &[String]| {
            format!(r#"{{"type":"FeatureCollection","features":[{}]}}"#, features.join(","))
        };
        let table: [(String, &[&str]); 6] = [
            (line.to_owned(), &["the-file-1"]),
            (format!("\u{feff}\n {}", feature(r#"{"name":"home"}"#, line)), &["home"]),
            // The second part begins 6 m from the end of the first, the third is far away.
            (feature(r#"{"id":"m","name":"x"}"#, multi), &["m", "m"]),
            (
                collection(&[
                    feature("null", "null"),
                    feature("null", point),
                    feature("{}", line),
                    feature("{}", line),
                ]),
                &["the-file-1", "the-file-2"],
            ),
            (
                feature("{}", &format!(r#"{{"type":"GeometryCollection","geometries":[{point},{line}]}}"#)),
                &["the-file-1"],
            ),
            (
                collection(&[
                    feature("{}", r#"{"type":"LineString","coordinates":[[1,2],[1,2]]}"#),
                    feature(r#"{"name":" "}"#, line),
                ]),
                &["the-file-2"],
            ),
        ];
        for (content, want) in table {
            let names: Vec<String> = read(&content).unwrap().into_iter().map(|route| route.name).collect();
            assert_eq!(names, want, "{content}");
        }
        let place = read(line).unwrap()[0].line.point_at(0.0);
        assert_eq!((place.lat, place.lon), (60.1, 24.9));
    }

    #[test]
    fn tracks_and_routes_of_a_gpx_file_are_read() {
        let gpx = r#"<?xml version="1.0" encoding="UTF-8"?>
<gpx version="1.1" creator="a test" xmlns="http://www.topografix.com/GPX/1/1">
  <wpt lat="60.1" lon="24.9"/>
  <trk><name>to work</name>
    <trkseg><trkpt lat="60.1" lon="24.9"><ele>5</ele><time>2026-01-01T00:00:00Z</time></trkpt><trkpt lat="60.1" lon="24.91"/></trkseg>
    <trkseg><trkpt lat="60.1" lon="24.9101"/><trkpt lat="60.1" lon="24.92"/></trkseg>
  </trk>
  <rte><rtept lat="60.1" lon="24.9"/><rtept lat="60.2" lon="24.9"/></rte>
</gpx>"#;
        let routes = read(gpx).unwrap();
        let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
        assert_eq!(names, ["to work", "the-file-2"]);
        assert_eq!(routes[0].line.points().len(), 4);
    }

    #[test]
    fn a_file_that_is_no_route_is_refused_with_its_name_and_what_was_expected() {
        let table = [
            ("", "but it is empty"),
            ("hello", "but it starts with 'h'"),
            ("{}", "but it cannot be read as GeoJSON"),
            (r#"{"type":"FeatureCollection","features":["#, "but it cannot be read as GeoJSON"),
            (r#"{"type":"Point","coordinates":[1,2]}"#, "but it has no line"),
            (r#"{"type":"FeatureCollection","features":[]}"#, "but it has no line"),
            (r#"{"type":"LineString","coordinates":[[1],[2]]}"#, "but a position has 1 numbers"),
            (r#"{"type":"LineString","coordinates":[[1,2]]}"#, "at least 2 different points, this one has 1"),
            (
                r#"{"type":"LineString","coordinates":[[60.1,24.9],[60.1,240.9]]}"#,
                "point 1 of the route is not on Earth",
            ),
            ("<html><body>no</body></html>", "but it cannot be read as GPX"),
            ("<gpx version=\"1.1\"><trk>", "but it cannot be read as GPX"),
            (
                r#"<gpx version="1.1" creator="x" xmlns="http://www.topografix.com/GPX/1/1"></gpx>"#,
                "but it has no line",
            ),
        ];
        for (content, want) in table {
            let error = read(content).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("the-file.json"), "{content}: {error}");
            assert!(
                !error.contains("is no route") || error.contains("expected GeoJSON with LineString"),
                "{error}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_a_missing_file_and_a_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picture.gpx");
        std::fs::write(&path, [0x89, b'P', 0xff, 0xfe]).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("not UTF-8"));
        assert!(load(&dir.path().join("absent.gpx")).unwrap_err().to_string().contains("absent.gpx"));
        assert!(load(dir.path()).unwrap_err().to_string().contains("it is not a file"));
    }

    #[test]
    fn a_file_over_the_limits_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.geojson");
        // Sparse: the length without the bytes.
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(load(&path), Err(RouteError::TooLarge { .. })));

        let many: Vec<String> = (0..=POINTS_MAX).map(|i| format!("[{:.5},1]", i as f64 * 1e-4)).collect();
        let error =
            read(&format!(r#"{{"type":"LineString","coordinates":[{}]}}"#, many.join(","))).unwrap_err();
        assert!(error.to_string().contains("at most 100000 points"), "{error}");

        let lines = vec!["[[1,2],[3,4]]"; ROUTES_MAX + 1].join(",");
        let error = read(&format!(r#"{{"type":"MultiLineString","coordinates":[{lines}]}}"#)).unwrap_err();
        assert!(error.to_string().contains("more than 10000 lines"), "{error}");

        let deep = (0..100_000)
            .fold(String::new(), |text, _| text + r#"{"type":"GeometryCollection","geometries":["#);
        assert!(matches!(read(&deep), Err(RouteError::NoRoute { .. })));
        let deep_xml =
            format!(r#"<gpx version="1.1" creator="x"><trk><extensions>{}"#, "<a>".repeat(100_000));
        assert!(read(&deep_xml).unwrap_err().to_string().contains("inside each other"));
    }
}
