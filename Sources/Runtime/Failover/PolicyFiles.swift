import Catalog
import Core
import Failover
import Foundation
import IO

/// Where failover policies are read from: the catalog, by name; or a file of their own.
package enum PolicyFiles {
  /// - Parameter catalog: Read only if `text` is a name, and no file.
  package static func load(_ text: String, catalog: String, pool: BlockingPool) async throws -> FailoverPolicy {
    let policy: FailoverPolicy
    if let name = PolicyName(text), !Files.exists(text) {
      let loaded = try await CatalogFiles.load(catalog, pool: pool).catalog
      guard let found = loaded.failover(name) else {
        throw FailoverFailure.unknownPolicy(text, known: loaded.failovers.map(\.name.text))
      }
      policy = found
    } else {
      let bytes: [UInt8]
      do { bytes = try await pool.run { try Files.read(text, limitBytes: 1 << 20) } } catch {
        throw FailoverFailure.badPolicy(text, AnyFailure(error).report.summary)
      }
      policy = try read(bytes, from: text)
    }
    try check(policy, text)
    return policy
  }

  /// A document as in a catalog, or the policy alone as JSON, as agents record it.
  package static func read(_ bytes: [UInt8], from path: String) throws -> FailoverPolicy {
    let isDocument =
      !path.hasSuffix(".json") || ((try? CanonicalJSON.decode(JSONValue.self, from: bytes))?["kind"] != nil)
    if isDocument {
      guard let text = String(validating: bytes, as: UTF8.self) else {
        throw FailoverFailure.badPolicy(path, "it is not text")
      }
      return try FailoverPolicy(SourceFile(path: path, text: text))
    }
    do { return try CanonicalJSON.decode(FailoverPolicy.self, from: bytes) } catch let error as DecodingError {
      throw FailoverFailure.badPolicy(path, said(error))
    } catch { throw FailoverFailure.badPolicy(path, AnyFailure(error).report.summary) }
  }

  private static func check(_ policy: FailoverPolicy, _ path: String) throws {
    if let problem = policy.problem { throw FailoverFailure.badPolicy(path, problem) }
    for window in policy.weeklyFreezes where window.zone != "UTC" && TimeZone(identifier: window.zone) == nil {
      throw FailoverFailure.badPolicy(
        path, "there is no time zone '\(window.zone)' on this machine; write it as Europe/Berlin, or install tzdata")
    }
  }

  /// What moves with `policy`; looked up in the catalog.
  package static func followers(
    of policy: FailoverPolicy, catalog: String, pool: BlockingPool
  ) async throws -> [FailoverPolicy] {
    var found: [FailoverPolicy] = []
    for name in policy.group?.followers ?? [] {
      found.append(try await load(name.text, catalog: catalog, pool: pool))
    }
    return found
  }

  /// An agent must find the engines and the other agents.
  package static func checkAddresses(_ policy: FailoverPolicy) throws {
    for member in policy.members where member.address.isEmpty || member.agent.isEmpty {
      throw FailoverFailure.badPolicy(
        policy.name.text, "member '\(member.name)' has no \(member.address.isEmpty ? "address" : "agent"); add it")
    }
    for witness in policy.witnesses where witness.agent.isEmpty {
      throw FailoverFailure.badPolicy(policy.name.text, "witness '\(witness.name)' has no agent; add its address")
    }
  }

  /// Offsets of the zones a policy names, now.
  package static func zones(of policy: FailoverPolicy, at now: Timestamp) -> [String: Int]? {
    guard !policy.weeklyFreezes.isEmpty else { return nil }
    let date = Date(timeIntervalSince1970: Double(now.nanoseconds) / 1e9)
    var result: [String: Int] = [:]
    for window in policy.weeklyFreezes where window.zone != "UTC" {
      result[window.zone] = TimeZone(identifier: window.zone)?.secondsFromGMT(for: date)
    }
    return result
  }

  /// The strings of a context's file, no more than are recorded; `nil` for what can't be read.
  package static func context(of policy: FailoverPolicy) -> [String: String]? {
    let limit = FailoverContext.limit
    guard let file = policy.context.file,
      let bytes = try? Files.read(file, limitBytes: 1 << 16),
      let found = (try? CanonicalJSON.decode(JSONValue.self, from: bytes))?.object
    else { return nil }
    var result: [String: String] = [:]
    // Those that gates ask for first: no flood of others may push them out.
    let asked = Set(policy.context.gates.map(\.key))
    for (key, value) in found.sorted(by: {
      (asked.contains($0.key) ? 0 : 1, $0.key) < (asked.contains($1.key) ? 0 : 1, $1.key)
    }) {
      guard result.count < limit.entries, key.utf8.count <= limit.key, let text = value.string else { continue }
      result[key] = String(decoding: text.utf8.prefix(limit.value), as: UTF8.self)
    }
    return result
  }

  private static func said(_ error: DecodingError) -> String {
    func path(_ context: DecodingError.Context) -> String {
      context.codingPath.map(\.stringValue).joined(separator: ".")
    }
    switch error {
    case .keyNotFound(let key, let context):
      let place = path(context)
      return "'\(place.isEmpty ? "" : place + ".")\(key.stringValue)' is missing"
    case .typeMismatch(_, let context), .valueNotFound(_, let context):
      return "'\(path(context))' is of another kind than is expected"
    case .dataCorrupted(let context):
      let place = path(context)
      return place.isEmpty ? "it is no JSON" : "'\(place)': \(context.debugDescription)"
    @unknown default: return "\(error)"
    }
  }
}
