# The command line of `@qwen-code/qwen-code` as it comes, with the session's tools over MCP.
export HOME=$(mktemp -d) OPENAI_MODEL=mine
trap 'rm -rf "$HOME"' EXIT
tools="{\"mcpServers\": {\"agito\": {\"httpUrl\": \"$AGITO_MCP_URL\", \"trust\": true, \"headers\": {\"Authorization\": \"Bearer $AGITO_KEY\"}}}}"
cd "$HOME" && qwen --auth-type openai --mcp-config "$tools" --yolo "$AGITO_TASK" < /dev/null
