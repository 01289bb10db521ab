import Core
import Synchronization

/// What happened so far, as Prometheus reads it. Holds no names of users or repositories: any user may read it.
final class ServerCounters: Sendable {
  private struct Key: Hashable {
    var method: String
    var what: String
    var status: Int
  }

  private struct State {
    var requests: [Key: Int] = [:]
    var receivedBytes = 0
    var sentBytes = 0
    var refusedLogins = 0
    var refusedUploads: [String: Int] = [:]
  }

  private let state = Mutex(State())

  func request(_ method: String, _ what: String, _ status: Int) {
    state.withLock { $0.requests[Key(method: method, what: what, status: status), default: 0] += 1 }
  }

  func received(_ count: Int) { state.withLock { $0.receivedBytes += count } }
  func sent(_ count: Int) { state.withLock { $0.sentBytes += count } }
  func refusedLogin() { state.withLock { $0.refusedLogins += 1 } }
  func refusedUpload(_ reason: String) { state.withLock { $0.refusedUploads[reason, default: 0] += 1 } }

  /// Source: Prometheus, "Exposition formats", text version 0.0.4.
  func text(storedBytes: Int?) -> String {
    let state = state.withLock { $0 }
    var lines: [String] = []
    func metric(_ name: String, _ kind: String, _ help: String, _ samples: [(labels: String, value: Int)]) {
      lines.append("# HELP \(name) \(help)")
      lines.append("# TYPE \(name) \(kind)")
      for sample in samples { lines.append("\(name)\(sample.labels) \(sample.value)") }
    }
    metric(
      "salvor_serve_requests_total", "counter", "Requests answered.",
      state.requests.map {
        ("{method=\"\($0.key.method)\",object=\"\($0.key.what)\",status=\"\($0.key.status)\"}", $0.value)
      }.sorted { $0.0 < $1.0 })
    metric("salvor_serve_received_bytes_total", "counter", "Bytes of objects received.", [("", state.receivedBytes)])
    metric("salvor_serve_sent_bytes_total", "counter", "Bytes of objects sent.", [("", state.sentBytes)])
    metric(
      "salvor_serve_refused_logins_total", "counter", "Requests without a right password.", [("", state.refusedLogins)])
    metric(
      "salvor_serve_refused_uploads_total", "counter", "Uploads that were not kept.",
      state.refusedUploads.map { ("{reason=\"\($0.key)\"}", $0.value) }.sorted { $0.0 < $1.0 })
    if let storedBytes {
      metric("salvor_serve_stored_bytes", "gauge", "Bytes counted against the quota.", [("", storedBytes)])
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
