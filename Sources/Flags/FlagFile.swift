import Core
import IO

/// Flags in a file, as flagd has them: state, variants and which of them is meant. Read anew for every question.
///
/// Targeting rules are not evaluated: a flag that has some is an error, so that a kill switch denies.
/// Source: flagd, "Flag Definitions": flags, state, variants, defaultVariant, targeting.
package struct FlagFile: FlagSource {
  private let path: String
  private let pool: BlockingPool
  private static let limitBytes = 4 << 20

  package init(_ path: String, pool: BlockingPool = .shared) { (self.path, self.pool) = (path, pool) }

  package func answer(_ key: FlagKey, _ context: [String: String]) async -> FlagAnswer {
    let flags: [String: JSONValue]
    do throws(FlagError) { flags = try await read() } catch {
      return .failure(key, .notReady, error.report.summary)
    }
    guard let flag = flags[key.text] else { return .failure(key, .notFound, "\(path) has no such flag") }
    return Self.answer(key, flag)
  }

  package func all(_ context: [String: String]) async throws(FlagError) -> [FlagAnswer] {
    try await read().sorted { $0.key < $1.key }.compactMap { name, flag in
      FlagKey(name).map { Self.answer($0, flag) }
    }
  }

  private static func answer(_ key: FlagKey, _ flag: JSONValue) -> FlagAnswer {
    guard flag.object != nil, let variants = flag["variants"]?.object else {
      return .failure(key, .parse, "it has no variants")
    }
    switch flag["state"]?.string {
    case "ENABLED": break
    case "DISABLED": return FlagAnswer(key: key, value: .null, reason: .disabled)
    default: return .failure(key, .parse, "its state is neither ENABLED nor DISABLED")
    }
    if let rules = flag["targeting"], rules != .null, rules.object?.isEmpty != true {
      return .failure(key, .general, "it has targeting rules, which a file can't evaluate; ask an OFREP service")
    }
    guard let name = flag["defaultVariant"], name != .null else {
      return FlagAnswer(key: key, value: .null, reason: .fallback)
    }
    guard let variant = name.string, let value = variants[variant] else {
      return .failure(key, .parse, "its defaultVariant is none of its variants")
    }
    return FlagAnswer(key: key, value: value, reason: .standing, variant: variant)
  }

  private func read() async throws(FlagError) -> [String: JSONValue] {
    let path = path
    let bytes: [UInt8]
    do throws(SystemFailure) {
      bytes = try await pool.run { () throws(SystemFailure) in try Files.read(path, limitBytes: Self.limitBytes) }
    } catch { throw .unavailable(path, error.report.summary) }
    guard let value = try? CanonicalJSON.decode(JSONValue.self, from: bytes), let flags = value["flags"]?.object else {
      throw .unavailable(path, "it is no JSON with 'flags'")
    }
    return flags
  }
}
