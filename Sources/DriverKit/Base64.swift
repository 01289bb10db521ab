import Foundation

/// Bytes as JSON carries them.
package enum Base64 {
  /// - Returns: `nil` for what isn't base64.
  package static func decode(_ text: String) -> [UInt8]? { Data(base64Encoded: text).map { [UInt8]($0) } }

  package static func encode(_ bytes: [UInt8]) -> String { Data(bytes).base64EncodedString() }
}
