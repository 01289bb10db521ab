import Core
import Failover

/// What a Prometheus server answers to an instant query; whoever answers may be anybody.
///
/// Source: Prometheus, "HTTP API", Instant queries and Expression query result formats.
package enum PrometheusAnswer {
  package static let limitBytes = 1 << 16

  /// One number that is not older than `freshness`; anything else says nothing: no series, several, `NaN`, an infinity.
  package static func sample(_ body: [UInt8], now: Timestamp, freshness: Duration) -> SignalSample {
    guard body.count <= limitBytes, let answer = try? CanonicalJSON.decode(JSONValue.self, from: body),
      answer["status"]?.string == "success", let data = answer["data"], let kind = data["resultType"]?.string
    else { return .unknown }
    let pair: [JSONValue]?
    switch kind {
    case "scalar": pair = data["result"]?.array
    case "vector":
      guard let series = data["result"]?.array, series.count == 1 else { return .unknown }
      pair = series[0]["value"]?.array
    default: return .unknown
    }
    guard let pair, pair.count == 2, let time = seconds(pair[0]), let text = pair[1].string, text.utf8.count <= 64,
      let value = Double(text), value.isFinite, abs(value) < 1e15
    else { return .unknown }
    let age = Double(now.nanoseconds) / 1e9 - time
    // A clock that is ahead of ours by so much isn't one to believe.
    guard age.isFinite, age <= freshness.seconds, age >= -max(60, freshness.seconds) else { return .unknown }
    return .value(Int64((value * 1000).rounded()))
  }

  private static func seconds(_ value: JSONValue) -> Double? {
    switch value {
    case .integer(let whole): Double(whole)
    case .number(let number): number
    default: nil
    }
  }

  /// Percent-encoded, all but what RFC 3986 leaves unreserved.
  package static func encoded(_ text: String) -> String {
    var result = ""
    for byte in text.utf8 {
      switch byte {
      case 48...57, 65...90, 97...122, 45, 46, 95, 126: result.unicodeScalars.append(Unicode.Scalar(byte))
      default: result += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16).uppercased()
      }
    }
    return result
  }
}
