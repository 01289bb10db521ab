import Core

/// What a tree's nodes refer to; all a check needs to know of trees.
struct TreeReferences: Hashable, Sendable {
  var subtrees: [BlobID] = []
  var content: [BlobID] = []

  /// - Throws: If the JSON isn't a tree.
  init(json: [UInt8]) throws(JSONFault) {
    var found = false
    var (subtrees, content): ([BlobID], [BlobID]) = ([], [])
    try JSONScanner.scan(json) { (scanner) throws(JSONFault) in
      try scanner.object { (key, scanner) throws(JSONFault) in
        guard key == "nodes" else { return try scanner.skip() }
        found = true
        try scanner.array { (scanner) throws(JSONFault) in
          try scanner.object { (key, scanner) throws(JSONFault) in
            if key == "subtree" {
              if try !scanner.null() { subtrees.append(try scanner.digest()) }
            } else if key == "content" {
              try scanner.array { (scanner) throws(JSONFault) in content.append(try scanner.digest()) }
            } else {
              try scanner.skip()
            }
          }
        }
      }
    }
    guard found else { throw JSONFault(offset: 0, reason: "it has no nodes") }
    (self.subtrees, self.content) = (subtrees, content)
  }
}
