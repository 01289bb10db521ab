/// One option an adapter understands: what the catalog checks manifests against, and what the reference prints.
package struct OptionSchema: Sendable, Equatable {
  package enum Kind: String, Sendable {
    case string, integer, boolean, duration
    /// An absolute path.
    case path
    /// `file:…`, `env:…` or `command:…`.
    case secret
    /// A list of strings.
    case strings
  }

  package var name: String
  package var kind: Kind
  package var isRequired: Bool
  package var fallback: String?
  /// One sentence.
  package var help: String

  package init(_ name: String, _ kind: Kind, required: Bool = false, default fallback: String? = nil, help: String) {
    (self.name, self.kind, self.isRequired, self.fallback, self.help) = (name, kind, required, fallback, help)
  }
}
