import Catalog
import Core
import Flags
import Web

/// Opens sources of flags by what they are called: a path, or the address of an OFREP service.
package enum FlagSources {
  package static func open(
    _ text: String, credential: SecretReference? = nil, host: Machine
  ) throws(AnyFailure) -> any FlagSource {
    if text.hasPrefix("http://") || text.hasPrefix("https://") {
      let secrets = host.secrets
      var token: (@Sendable () async throws -> Secret)?
      if let credential { token = { try await secrets.resolve(credential) } }
      do {
        return FlagService(text, web: try WebClient(time: host.time), token: token)
      } catch { throw AnyFailure(FlagError.unavailable(text, "\(error)")) }
    }
    guard text.hasPrefix("/") || text.hasPrefix(".") else { throw AnyFailure(FlagError.badSource(text)) }
    return FlagFile(text, pool: host.pool)
  }

  /// Values for a record, by `flag.KEY`.
  package static func context(_ client: FlagClient, _ keys: [String]) async -> [String: String] {
    var result: [String: String] = [:]
    for text in keys {
      guard let key = FlagKey(text) else { continue }
      result["flag.\(key)"] = await client.value(key).text
    }
    return result
  }
}
