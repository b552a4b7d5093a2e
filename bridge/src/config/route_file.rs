//! Lines out of GeoJSON and GPX text: what a route file holds.

use geojson::{FeatureCollection, GeoJson, Geometry, GeometryValue, Position};
use tracks::LatLon;

/// The most lines one file may hold.
const LINES_MAX: usize = 10_000;

/// One line of a route file.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedLine {
    /// GeoJSON: the property `name` or `id`, or the feature's id. GPX: the name of the track or route.
    pub name: Option<String>,
    /// Its places in order, unchecked.
    pub points: Vec<LatLon>,
}

/// Why a text is no route file.
#[derive(Debug, thiserror::Error)]
pub enum RouteFileError {
    /// Neither format.
    #[error("it is neither GeoJSON (starts with {{) nor GPX (starts with <)")]
    Unknown,
    /// Not what it looks like.
    #[error("it is not valid {format}: {what}")]
    Invalid {
        /// `GeoJSON` or `GPX`.
        format: &'static str,
        /// The parser's words.
        what: String,
    },
    /// No line in it.
    #[error("there is no line in it: it needs a {needs}")]
    NoLine {
        /// What would be one.
        needs: &'static str,
    },
    /// Too many lines.
    #[error("it holds more than {LINES_MAX} lines")]
    TooManyLines,
}

/// Reads all lines of a GeoJSON or GPX text, in order. The parts of a MultiLineString and the segments of a GPX track
/// are joined, as they are one way.
///
/// # Errors
/// The text is neither, is broken, or holds no line.
pub fn lines(text: &str) -> Result<Vec<NamedLine>, RouteFileError> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let (lines, needs) = match text.as_bytes().first() {
        Some(b'{') => (geojson_lines(text)?, "LineString or MultiLineString"),
        Some(b'<') => (gpx_lines(text)?, "track (trk) or route (rte) with points"),
        _ => return Err(RouteFileError::Unknown),
    };
    match lines.len() {
        0 => Err(RouteFileError::NoLine { needs }),
        1..=LINES_MAX => Ok(lines),
        _ => Err(RouteFileError::TooManyLines),
    }
}

fn geojson_lines(text: &str) -> Result<Vec<NamedLine>, RouteFileError> {
    let parsed: GeoJson = text.parse().map_err(|error: geojson::Error| invalid(error.to_string()))?;
    let features = match parsed {
        GeoJson::Geometry(geometry) => return geometry_line(None, &geometry).into_iter().collect(),
        GeoJson::Feature(feature) => vec![feature],
        GeoJson::FeatureCollection(FeatureCollection { features, .. }) => features,
    };
    let named = features.iter().filter_map(|feature| {
        let property = ["name", "id"].into_iter().find_map(|key| feature.property(key).and_then(text_of));
        let name = property.or_else(|| {
            feature.id.as_ref().map(|id| match id {
                geojson::feature::Id::String(text) => text.clone(),
                geojson::feature::Id::Number(number) => number.to_string(),
            })
        });
        geometry_line(name, feature.geometry.as_ref()?)
    });
    named.collect()
}

fn invalid(what: String) -> RouteFileError {
    RouteFileError::Invalid { format: "GeoJSON", what }
}

fn text_of(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The line of a geometry, `None` if it is of another kind.
fn geometry_line(name: Option<String>, geometry: &Geometry) -> Option<Result<NamedLine, RouteFileError>> {
    let points: Result<Vec<_>, _> = match &geometry.value {
        GeometryValue::LineString { coordinates } => coordinates.iter().map(place).collect(),
        GeometryValue::MultiLineString { coordinates } => coordinates.iter().flatten().map(place).collect(),
        _ => return None,
    };
    Some(points.map(|points| NamedLine { name, points }))
}

/// RFC 7946 section 3.1.1: longitude first, at least two numbers.
fn place(position: &Position) -> Result<LatLon, RouteFileError> {
    match position.as_slice() {
        [lon, lat, ..] => Ok(LatLon::new(*lat, *lon)),
        few => Err(invalid(format!("a position has {} numbers, it needs longitude and latitude", few.len()))),
    }
}

fn gpx_lines(text: &str) -> Result<Vec<NamedLine>, RouteFileError> {
    let gpx = gpx::read(text.as_bytes())
        .map_err(|error| RouteFileError::Invalid { format: "GPX", what: error.to_string() })?;
    let place = |at: &gpx::Waypoint| LatLon::new(at.point().y(), at.point().x());
    let tracks = gpx.tracks.iter().map(|track| NamedLine {
        name: track.name.clone(),
        points: track.segments.iter().flat_map(|segment| segment.points.iter().map(place)).collect(),
    });
    let routes = gpx.routes.iter().map(|route| NamedLine {
        name: route.name.clone(),
        points: route.points.iter().map(place).collect(),
    });
    Ok(tracks.chain(routes).filter(|line| !line.points.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_geojson_and_gpx_are_found_with_their_names() {
        let line = [LatLon::new(60.0, 24.0), LatLon::new(60.5, 24.5)];
        let table = [
            (r#"{"type":"LineString","coordinates":[[24,60],[24.5,60.5,12.0]]}"#, None),
            (
                r#"{"type":"Feature","properties":{"id":"route-1"},"geometry":{"type":"LineString","coordinates":[[24,60],[24.5,60.5]]}}"#,
                Some("route-1"),
            ),
            (
                r#"{"type":"FeatureCollection","features":[
                    {"type":"Feature","properties":null,"geometry":{"type":"Point","coordinates":[1,2]}},
                    {"type":"Feature","id":9,"properties":{},"geometry":{"type":"MultiLineString","coordinates":[[[24,60]],[[24.5,60.5]]]}}]}"#,
                Some("9"),
            ),
            (
                r#"<?xml version="1.0"?><gpx version="1.1" creator="t"><trk><name>Tour</name><trkseg>
                    <trkpt lat="60" lon="24"/><trkpt lat="60.5" lon="24.5"/></trkseg></trk></gpx>"#,
                Some("Tour"),
            ),
            (
                r#"<gpx version="1.1" creator="t"><rte><rtept lat="60" lon="24"/><rtept lat="60.5" lon="24.5"/></rte></gpx>"#,
                None,
            ),
        ];
        for (text, name) in table {
            let found = lines(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!((found[0].name.as_deref(), &found[0].points[..]), (name, &line[..]), "{text}");
        }
    }

    #[test]
    fn what_is_no_route_file_is_refused_with_the_reason() {
        let table = [
            ("", "neither GeoJSON"),
            ("lat,lon\n60,24", "neither GeoJSON"),
            ("{\"type\":\"LineString\"", "not valid GeoJSON"),
            ("{\"type\":\"Route\"}", "not valid GeoJSON"),
            ("{\"type\":\"LineString\",\"coordinates\":[[24]]}", "not valid GeoJSON"),
            ("{\"type\":\"Point\",\"coordinates\":[24,60]}", "no line in it: it needs a LineString"),
            ("<gpx version=\"1.1\" creator=\"t\"></gpx>", "no line in it: it needs a track"),
            ("<html></html>", "not valid GPX"),
        ];
        for (text, want) in table {
            let error = lines(text).expect_err(text).to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
