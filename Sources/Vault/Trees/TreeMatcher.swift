import CShim
import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Compares what is in a directory with a stored tree, by what it would be written as.
///
/// Most directories are as they were, and then their tree is: neither it nor its nodes need to be parsed, made or hashed.
struct TreeMatcher {
  /// What the first entries have in common with the tree.
  struct Match {
    /// How many entries are as in the tree, one by one.
    var count = 0
    /// Whether they all are, and nothing else is in it.
    var isWhole = false
    /// Trees of the directories among them.
    var subtrees: [BlobID] = []
  }

  private let tree: UnsafeRawBufferPointer
  private let length: (BlobID) -> Int?
  private var index = 0
  private var spelled: [UInt8] = []

  /// - Parameter length: Of a stored blob; files are as they were only while all of theirs are there.
  private init(_ tree: UnsafeRawBufferPointer, _ length: @escaping (BlobID) -> Int?) {
    (self.tree, self.length) = (tree, length)
  }

  /// - Parameters:
  ///   - nodes: Ascending by name, as they are stored, without contents and subtrees; asked for one after another.
  static func match(
    _ tree: [UInt8], count: Int, length: @escaping (BlobID) -> Int?, _ node: (Int) -> TreeNode
  ) -> Match {
    tree.withUnsafeBytes { raw in
      var matcher = TreeMatcher(raw, length)
      return matcher.match(count, node)
    }
  }

  private mutating func match(_ count: Int, _ node: (Int) -> TreeNode) -> Match {
    var match = Match()
    guard take(TreeEncoder.open) else { return match }
    for position in 0..<count {
      let start = index
      if position > 0, !take(Self.comma) { return match }
      guard let subtree = take(node(position)) else {
        index = start
        return match
      }
      if let subtree = subtree { match.subtrees.append(subtree) }
      match.count += 1
    }
    match.isWhole = take(TreeEncoder.close) && index == tree.count
    return match
  }

  /// - Returns: `nil` unless the node comes next; its subtree, if it has one.
  private mutating func take(_ node: TreeNode) -> BlobID?? {
    spelled.removeAll(keepingCapacity: true)
    TreeEncoder.appendHead(node, to: &spelled)
    guard take(spelled) else { return nil }
    var subtree: BlobID?
    if node.metadata.kind.isRegular {
      guard takeContent(of: node.metadata.size) else { return nil }
    } else {
      guard take(Self.null) else { return nil }
      if node.metadata.kind.isDirectory {
        guard take(Self.subtreeKey), let id = takeDigest(), take(Self.quote) else { return nil }
        subtree = id
      }
    }
    guard take(Self.brace) else { return nil }
    return .some(subtree)
  }

  private mutating func takeContent(of size: Int64) -> Bool {
    guard take(Self.bracket) else { return false }
    var total: Int64 = 0
    var isFirst = true
    while !take(Self.endBracket) {
      if !isFirst, !take(Self.comma) { return false }
      isFirst = false
      guard take(Self.quote), let id = takeDigest(), take(Self.quote), let bytes = length(id) else { return false }
      total += Int64(bytes)
    }
    return total == size
  }

  private mutating func takeDigest() -> BlobID? {
    guard let id = GoText.digest(tree, at: index) else { return nil }
    index += 64
    return id
  }

  private mutating func take(_ bytes: [UInt8]) -> Bool {
    guard tree.count - index >= bytes.count, let base = tree.baseAddress,
      bytes.withUnsafeBytes({ memcmp($0.baseAddress!, base + index, $0.count) }) == 0
    else { return false }
    index += bytes.count
    return true
  }

  /// Where something is spelled as the tree of a directory is.
  static func subtrees(in tree: [UInt8]) -> [BlobID] {
    var result: [BlobID] = []
    tree.withUnsafeBytes { raw in
      var rest = raw[...]
      while case let part = UnsafeRawBufferPointer(rebasing: rest),
        case let found = subtreeKey.withUnsafeBytes({
          salvor_find(part.baseAddress, part.count, $0.baseAddress, $0.count)
        }), found >= 0
      {
        let start = found + subtreeKey.count
        if let id = GoText.digest(part, at: start) { result.append(id) }
        rest = rest.dropFirst(start)
      }
    }
    return result
  }

  private static let subtreeKey = TreeEncoder.subtreeKey + Array("\"".utf8)
  private static let null = Array("null".utf8)
  private static let comma = Array(",".utf8)
  private static let quote = Array("\"".utf8)
  private static let bracket = Array("[".utf8)
  private static let endBracket = Array("]".utf8)
  private static let brace = Array("}".utf8)
}
